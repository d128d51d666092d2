"""Other systems than Linux, as far as they can be played: nothing needs what they lack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noisylabels import processes

REPO = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(p.relative_to(REPO / "lib").with_suffix("").parts).removesuffix(".__init__")
    for p in (REPO / "lib" / "noisylabels").rglob("*.py"))

PLAY = """
import signal, sys, os
import torch, numpy, selectors, subprocess, multiprocessing.connection, asyncio, filelock
import matplotlib.pyplot, pandas, seaborn, sklearn.datasets, typer, rich.progress, pydantic
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT"):
    if hasattr(signal, name): delattr(signal, name)
for name in ("killpg", "setsid", "getuid", "geteuid", "getpgid", "sched_getaffinity", "fork",
             "uname", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "fchmod"):
    if hasattr(os, name): delattr(os, name)
sys.platform = "win32"
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print("imported", len(sys.argv) - 1)
"""


def test_every_module_is_imported_where_there_is_no_fcntl_and_no_posix_signal():
    """A Python that says it is Windows, without what POSIX alone has."""
    done = subprocess.run([sys.executable, "-c", PLAY, *MODULES], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPO / "lib")})
    assert done.stdout == f"imported {len(MODULES)}\n", done.stderr[-1500:]


@pytest.mark.parametrize("word", ["fcntl", "signal.SIGHUP", "process_group=", "os.killpg",
                                  "os.fork(", "os.getuid", "import resource"])
def test_what_posix_alone_has_is_named_in_one_place(word):
    named = [p for folder in ("lib", "book") for p in (REPO / folder).rglob("*.py")
             if word in p.read_text(encoding="utf-8") and p.name != "processes.py"]
    assert named == []


def test_no_git_no_home_c_locale_links_and_a_path_that_is_not_ascii(tmp_path):
    """A checkout below spaces, umlauts and braces, `data/runs` and `data/cache` on other disks."""
    home = tmp_path / "Gerät {x} ü"
    for name in ("runs", "cache"):
        (tmp_path / "else" / name).mkdir(parents=True)
        (home / "data").mkdir(parents=True, exist_ok=True)
        (home / "data" / name).symlink_to(tmp_path / "else" / name)
    (home / "_config.yml").touch()
    (home / "notebooks").mkdir()
    source = {"cells": [{"cell_type": "code", "id": "a", "outputs": [], "execution_count": None,
                         "metadata": {}, "source": "print('größer')"}],
              "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3",
                                          "language": "python"}},
              "nbformat": 4, "nbformat_minor": 5}
    (home / "notebooks" / "seite.ipynb").write_text(json.dumps(source), encoding="utf-8")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/nonexistent",
            "NOISYLABELS_HOME": str(home), "PYTHONPATH": str(REPO / "lib"), "OMP_NUM_THREADS": "1"}

    def call(*words):
        done = subprocess.run([sys.executable, "-m", "noisylabels", *words], cwd=home, env=bare,
                              capture_output=True, encoding="utf-8", errors="replace")
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = call("train", "--method", "cross_entropy", "--max-samples", "200", "--epochs", "1")
    assert re.search(r"^record +data/runs/digits", said, re.M)
    assert len(list((tmp_path / "else" / "runs").glob("digits/*/*/*/run.json"))) == 1
    assert "1 run in data/runs" in call("runs")
    assert "done in" in call("page", "seite", "-o", "ausgabe.ipynb")
    made = json.loads((home / "ausgabe.ipynb").read_text(encoding="utf-8"))
    assert made["cells"][-1]["outputs"][0]["text"] == ["größer\n"]
    assert made["metadata"]["papermill"]["output_path"] == str(home / "ausgabe.ipynb")


class Process:
    pid = 77

    def __init__(self):
        self.sent = []

    def poll(self):
        return None

    def send_signal(self, number):
        self.sent.append(number)


def test_processes_on_windows_are_ended_by_its_own_means(monkeypatch):
    ran = []
    monkeypatch.setattr(processes, "posix", lambda: False)
    monkeypatch.setattr(processes.subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(processes.signal, "CTRL_BREAK_EVENT", 1, raising=False)
    assert processes.own_group() == {"creationflags": 0x200}
    process = Process()
    processes.interrupt(process)
    assert process.sent == [1]
    processes.end_group(process)
    processes.end_group(process, kill=True)
    assert ran == [["taskkill", "/T", "/PID", "77"], ["taskkill", "/T", "/PID", "77", "/F"]]


def test_processes_on_posix(monkeypatch):
    sent = []
    monkeypatch.setattr(processes.os, "killpg", lambda *what: sent.append(what))
    process = Process()
    processes.interrupt(process)
    processes.end_group(process)
    processes.end_group(process, kill=True)
    assert process.sent == [signal.SIGINT] and processes.own_group() == {"process_group": 0}
    assert sent == [(77, signal.SIGTERM), (77, signal.SIGKILL)]
    assert set(processes.endings()) == {signal.SIGTERM, signal.SIGHUP}
