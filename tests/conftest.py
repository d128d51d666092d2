"""Shared fixtures: real CIFAR when it is at hand, otherwise a skip that says how to get it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
with contextlib.suppress(ValueError):  # a shell's background job ignores Ctrl-C, and hands that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup

import pytest  # noqa: E402
import torch  # noqa: E402

from noisylabels import paths  # noqa: E402

torch.set_num_threads(1)


def checkpoint(epochs: int, count: int = 0, before: int = 0, stage: str = "train", **more) -> dict:
    """A checkpoint's content: `before` epochs of earlier stages, then `epochs` of `count`."""
    rows = [{"stage": f"s{k}" if k < before else stage, "epoch": k + 1, "test": 0.5, "val": 0.5,
             "loss": 1.0, "seconds": 0.1, "seconds_evaluating": 0.1}
            for k in range(before + epochs)]
    return {"epoch": epochs, "count": count or epochs, "rows": rows, "state": [], "signals": {},
            "generators": {}, **more}


REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = paths.datasets_dir()
    if not any((root / f).exists() for f in ("cifar-10-batches-bin", "cifar-10-batches-py")):
        pytest.skip(f"no CIFAR files under {root}; set NOISYLABELS_DATA to the folder with them")
    return root


@pytest.fixture(scope="session")
def cifar10(data_root):
    from noisylabels.data import datasets

    return datasets.load("cifar10", data_root)


@pytest.fixture(scope="session")
def cifar100(data_root):
    from noisylabels.data import datasets

    if not any((data_root / f).exists() for f in ("cifar-100-binary", "cifar-100-python")):
        pytest.skip(f"no CIFAR-100 files under {data_root}")
    return datasets.load("cifar100", data_root)
