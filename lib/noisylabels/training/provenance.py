"""With what a run was made: what its record says besides its numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from .. import paths
from . import engine, runs
from .recorder import Truth


def facts(task: engine.Task, truth: Truth) -> dict[str, Any]:
    """What a record says besides its numbers: data, software, hardware."""
    return {
        "samples": len(task), "validation": len(truth.y_val),
        "trusted": 0 if task.trusted is None else len(task.trusted[1]),
        "realised_rate": round(float(truth.wrong.float().mean()), 6),
        **({"noise_note": truth.note} if truth.note else {}),
        **({"noise_redrawn": truth.redrawn} if truth.redrawn else {}),
        **made_by(task),
    }


def made_by(task: engine.Task) -> dict[str, Any]:
    """With what this process trains: everything beside the setting that may move a last
    digit."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if task.device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    return {
        "commit": commit(), "date": runs.now(), "versions": versions,
        "hardware": engine.hardware(task.device), "threads": torch.get_num_threads(),
        "instructions": engine.instructions(),
        "execution": {"compile": task.execution.compile, "graph": task.execution.graph},
        "precision": task.precision,
    }


def commit() -> str:
    """The code's commit, with "+" when lib/ had uncommitted changes; "unknown" outside
    git.

    `$NOISYLABELS_COMMIT` names it where the code travels without its history.
    """
    if given := os.environ.get("NOISYLABELS_COMMIT"):
        return given

    checkout = Path(__file__).resolve().parents[3]
    where = checkout if (checkout / "_config.yml").exists() else paths.home()

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(where), *words], capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "lib") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
