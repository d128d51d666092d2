"""Data sets at their official bytes, checked and never changed.

One file a data set, each registered by its name (`sets`) as it is imported here.
"""

import importlib
import pkgutil

for _module in ("digits", *(m.name for m in pkgutil.iter_modules(__path__))):
    importlib.import_module(f"{__name__}.{_module}")  # the digits are listed first
