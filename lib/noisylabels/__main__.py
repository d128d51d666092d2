"""The command `noisylabels`, also `python -m noisylabels`: which words it knows, and
how it ends.

Each word is a module with an `app` of Typer. Only the module that is asked for is
imported, and it imports torch only when it has work to do, so that `--help` is quick.

Exit codes: 0 done, 1 it went wrong, 2 wrong usage or a bad value, 130 interrupted. When
the reader of its output goes, such as `head`, a command falls silent and goes on with
its work.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from . import __version__
from .commands import common
from .wording import OUT_OF_MEMORY, Failed, deliberate, plain

COMMANDS = {  # word -> its module, what it does
    "train": ("train", "train one run, or go on with one that was interrupted"),
    "runs": ("records", "list, show and compare the recorded runs"),
    "page": ("page", "run a page of the book with other parameters"),
    "doctor": ("doctor", "say what is here, whether it works and what a run costs"),
    "reproduce":
        ("reproduce", "do the runs behind the ledger within a time that you name"),
    "bench": ("bench", "time the parts that cost most"),
}


class Words(common.Group):
    """The group of all commands: it lists them by `COMMANDS` and imports one."""

    def load(self, word: str) -> Any:
        module = importlib.import_module(f".commands.{COMMANDS[word][0]}", __package__)
        return typer.main.get_command(module.app)


app = common.app(cls=Words)
for _word, (_, _what) in COMMANDS.items():
    app.command(_word, help=_what)(lambda: None)


def _version(asked: bool) -> None:
    if asked:
        print(f"noisylabels {__version__}")
        raise typer.Exit


@app.callback(epilog="noisylabels COMMAND --help says more and gives an example.")
def noisylabels(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Learning with noisy labels: train, look, rerun."""


class Unheard:
    """A stream that falls silent when its reader goes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._unless_gone(self._stream.write, text) or len(text))

    def flush(self) -> None:
        self._unless_gone(self._stream.flush)

    def _unless_gone(self, do: Any, *what: str) -> Any:
        try:
            return do(*what)
        except BrokenPipeError:  # what is still written goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return its exit
    code."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            # a terminal that cannot show "±" shows "?"
            stream.reconfigure(errors="replace")
    heard: list[Any] = [Unheard(stream) for stream in streams]
    sys.stdout, sys.stderr = heard
    command = typer.main.get_command(app)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with command.make_context("noisylabels", words) as context:
            return int(command.invoke(context))
    except typer.Exit as end:  # --help, --version
        return end.exit_code
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except TyperException as error:
        return _say(common.sentence(error), 2)
    except Failed as error:
        return _say(str(error), 1)
    except ValueError as error:
        if not deliberate(error):
            raise
        return _say(str(error), 2)
    except ImportError as error:
        if not deliberate(error) and (error.name
                                      or "noisylabels").startswith("noisylabels"):
            raise
        hint = "" if deliberate(error) else f"; `pip install {error.name}` may bring it"
        return _say(f"{error}{hint}", 1)
    except (RuntimeError, OSError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            return _say(OUT_OF_MEMORY, 1)
        if not deliberate(error) and not isinstance(error, OSError):
            raise
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            return _say(f"{error.filename}: {error.strerror}.", 1)  # without the number
        return _say(str(error), 1)
    finally:
        with suppress(OSError):
            heard[0].flush()
        sys.stdout, sys.stderr = streams


def _say(sentence: str, code: int) -> int:
    said = "\n".join(map(plain, sentence.split("\n")))
    print(f"noisylabels: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
