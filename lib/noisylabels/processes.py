"""Child processes, alike on Linux, macOS and Windows: a group of their own,
interrupted, ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def posix() -> bool:
    """Whether there are process groups and POSIX signals here."""
    return os.name == "posix"


def own_group() -> dict[str, Any]:
    """Arguments of `subprocess.Popen`: Ctrl-C in a terminal does not reach the
    child."""
    if posix():
        return {"process_group": 0}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}


def endings() -> list[signal.Signals]:
    """The signals of this system, but Ctrl-C, that ask a program to end."""
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def interrupt(process: subprocess.Popen[Any]) -> None:
    """As Ctrl-C would; Windows knows Ctrl-Break alone for a process of another
    group."""
    if process.poll() is None:
        with suppress(OSError):
            process.send_signal(signal.SIGINT if posix(
            ) else getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


def end_group(process: subprocess.Popen[Any], kill: bool = False) -> None:
    """Ask the process and all that it began to end, or (`kill`) end them."""
    if posix():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        return
    command = ["taskkill", "/T", "/PID", str(process.pid), *(["/F"] if kill else [])]
    with suppress(OSError):
        subprocess.run(command, capture_output=True)


@contextmanager
def interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let these signals do what Ctrl-C does, but for those that are ignored
    (`nohup`)."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {n: h for n in numbers if (h := signal.getsignal(n)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
