"""The one place that imports torchvision.

torchvision's usual wheel is built for CUDA. Beside a CPU-only torch its compiled
library does not load, and the import then stops at `operator torchvision::nms does not
exist`. Its datasets and transforms need none of that library, so the two missing
operators are declared (not implemented) and the import is tried once more. On a matched
pair of builds nothing of this happens.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# a declaration lives as long as its Library object
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """The module `torchvision`, imported so that it also works beside a CPU-only torch.

    After the guarded import `torchvision.datasets`, `.transforms` and `.models` work;
    `torchvision.ops.nms` and `torchvision.io` do not. Raises ModuleNotFoundError when
    torchvision is not installed, and lets every other error of the import through.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ModuleNotFoundError(
            "torchvision is not installed: it is needed only to download CIFAR, "
            "`pip install torchvision` brings it",
            name="torchvision",
        ) from None
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    return importlib.import_module("torchvision")
