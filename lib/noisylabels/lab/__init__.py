"""From a setting to a run: load it when it is finished, resume it when it was begun,
else train.

`setting(...)` resolves everything a run depends on (`recipes`); `prepare(setting)`
makes the task that the method sees and the truth that stays with the recorder
(`tasks`); `run(setting)` returns its `Run` (`running`). `watch(...)` trains without the
store, for figures that are made live.
"""

from ..training.provenance import commit, facts
from ..training.recorder import TrainingFailed
from ..training.runs import Setting, StoreError
from .budgets import BUDGETS, Budget
from .recipes import (
    Images,
    Plan,
    check,
    images,
    noise_kinds,
    setting,
    settings_of,
    total_epochs,
)
from .running import (
    checkpoints_of,
    epochs_begun,
    kept_of,
    lacks_losses,
    run,
    summary,
    watch,
)
from .tasks import PROBE, prepare

__all__ = [
    "BUDGETS", "PROBE", "Budget", "Images", "Plan", "Setting", "StoreError",
    "TrainingFailed", "check", "checkpoints_of", "commit", "epochs_begun", "facts",
    "images", "kept_of", "lacks_losses", "noise_kinds", "prepare", "run", "setting",
    "settings_of", "summary", "total_epochs", "watch",
]
