"""The command `noisylabels`, also `python -m noisylabels`: which words it knows, and
how it ends.

Each subcommand is a module with `add_arguments(parser)` and `main(args) -> int`. Only
the module that is asked for is imported, and it imports torch only when it has work to
do, so that `--help` is quick.

Exit codes: 0 done, 1 it went wrong, 2 wrong usage or a bad value, 130 interrupted. When
the reader of its output goes, such as `head`, a command that only prints is done; any
other falls silent and goes on with its work.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from . import __version__
from .wording import OUT_OF_MEMORY, Failed, deliberate, nearest, plain

# word -> (module, what it does, an example)
COMMANDS = {
    "train":
        ("commands.train", "train one run, or go on with one that was interrupted",
         "noisylabels train --method cross_entropy --dataset cifar10 --noise symmetric "
         "--rate 0.4 --network small --epochs 1",
         ), "runs": ("commands.records", "list, show and compare the recorded runs",
                     "noisylabels runs compare --dataset digits --rate 0.4",
                     ),
    "page": ("commands.pages", "run a page of the book with other parameters",
             "noisylabels page memorisation -p seed 3 -o mine.ipynb",
             ),
    "doctor":
        ("commands.doctor", "say what is here, whether it works and what a run costs",
         "noisylabels doctor --download cifar10",
         ), "reproduce": ("commands.reproduce",
                          "do the runs behind the ledger within a time that you name",
                          "noisylabels reproduce --help",
                          ),
    "bench":
        ("commands.bench", "time the parts that cost most", "noisylabels bench --help"),
}
IMPLIED = {"runs": "list"}  # what is meant when no action is named


class Parser(argparse.ArgumentParser):
    """argparse with one sentence for an error, and the nearest valid word in it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`).")

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError:
            if not isinstance(action.metavar, tuple):
                raise
            words = f"{len(action.metavar)} words, {' '.join(action.metavar)}"
            raise argparse.ArgumentError(
                None, f"{'/'.join(action.option_strings)} takes {words}, without ="
            ) from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near, allowed = (
                nearest(str(value), action.choices),
                ", ".join(map(str, action.choices)),
            )
            what = "/".join(action.option_strings) or str(action.metavar
                                                          or action.dest).lower()
            raise argparse.ArgumentError(
                None, f"unknown {what} {str(value)!r}{near}; allowed: {allowed}"
            )


def available() -> dict[str, tuple[str, str, str]]:
    """The commands whose module exists."""
    return {
        word: entry
        for word, entry in COMMANDS.items()
        if importlib.util.find_spec(f"noisylabels.{entry[0]}") is not None
    }


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; `args.run` is the chosen subcommand's `main`."""
    words = list(words)
    if (words and words[0] in IMPLIED
            and (len(words) == 1
                 or words[1].startswith("-") and words[1] not in ("-h", "--help"))):
        words.insert(1, IMPLIED[words[0]])
    parser = Parser(
        prog="noisylabels",
        allow_abbrev=False,
        description="Learning with noisy labels: train, look, rerun.",
        epilog="noisylabels COMMAND --help says more and gives an example.",
    )
    parser.add_argument("--version", action="version",
                        version=f"noisylabels {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = None
    for word, (module, what, example) in available().items():
        sub = commands.add_parser(
            word,
            help=what,
            allow_abbrev=False,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words and words[0] == word:
            chosen = sub
            loaded = importlib.import_module(f"noisylabels.{module}")
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.main)
    # before its options are blamed
    if words and not words[0].startswith("-") and chosen is None:
        parser.error(
            f"unknown command {words[0]!r}{nearest(words[0], available())}; allowed: "
            f"{', '.join(available())}")
    known, mine = _options(chosen or parser, words), chosen or parser
    try:
        args, extra = parser.parse_known_args(words)
    # a misspelt option may be why another one is missing: say that first
    except ValueError:
        args, extra = (
            argparse.Namespace(),
            [w for w in words if w.startswith("--") and w.split("=")[0] not in known],
        )
        if not extra:
            raise
    if extra:
        mine.error(
            f"unknown argument {extra[0]!r}{nearest(extra[0].split('=')[0], known)}")
    return args


def _options(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Every option that the parser, or its action named in `words`, knows."""
    known = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            known += [
                o
                for w in words
                if w in action.choices
                for o in action.choices[w]._option_string_actions
            ]
    return known


class Unheard:
    """A stream that falls silent when its reader goes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            _silence(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            _silence(self._stream)


def _silence(stream: Any) -> None:
    """What is still written to the stream goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _only_prints(args: argparse.Namespace) -> bool:
    flags = ("dry_run", "list", "help_parameters")
    return args.command == "runs" or any(getattr(args, flag, False) for flag in flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return its exit
    code."""
    streams, works = (sys.stdout, sys.stderr), False
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            # a terminal that cannot show "±" shows "?"
            stream.reconfigure(errors="replace")
    try:
        try:
            args = parse(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # --help ends here
        if works := not _only_prints(args):
            unheard: list[Any] = [Unheard(stream) for stream in streams]
            sys.stdout, sys.stderr = unheard
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except BrokenPipeError as error:
        if works:  # some other pipe than the output's
            return _say(str(error), 1)
        _silence(sys.stdout)
        return 0
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
            Unheard(streams[0]).flush()
        sys.stdout, sys.stderr = streams


def _say(sentence: str, code: int) -> int:
    said = "\n".join(map(plain, sentence.split("\n")))
    print(f"noisylabels: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
