"""What the commands share: the classes of their words, options, tables and facts.
Imports nothing heavy.

Typer reads the words; a refusal of it becomes one sentence. Rich draws on terminals. A
pipe or log gets the same text without lines, colours and wrapping.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Annotated, Any, TextIO

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from .. import wording

WIDE = 10_000  # columns of what is no terminal: nothing is wrapped there


def live(stream: TextIO) -> bool:
    """Whether lines of the stream can be rewritten: a terminal that knows how."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


# ---------------------------------------------------------------------------- the words


class Helpful:
    """Help as Rich draws it on a terminal, plain elsewhere."""

    epilog: str | None
    rich_markup_mode: Any

    def get_help(self, ctx: Any) -> str:
        said: str = super().get_help(ctx)  # type: ignore[misc]
        return f"{said}\n" if said else ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = "rich" if live(sys.stdout) else None
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write(f"\n{self.epilog}\n" if self.epilog else "")


class Command(Helpful, TyperCommand):
    """Typer's command, with options that take none, two or many words.

    The metavar says it: "[N=20]" one or none, and none means 20; "P..." one or more (a
    list); "KEY VALUE" two, and often (a list of all these words in a row).
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = {o: p for p in self.get_params(ctx) for o in p.opts if o[0] == "-"}
        words, rest = list[str](), list(args)
        while rest:
            words.append(word := rest.pop(0))
            option: Any = named.get(word)
            if option is None or option.is_flag:
                continue
            metavar = option.metavar or "a value"
            mine = list(takewhile(lambda w: w not in named and w[:2] != "--", rest))
            if metavar[0] == "[":
                if not mine or mine[0][:1] == "-":
                    words.append(metavar.strip("[]").partition("=")[2])
                continue
            two = len(metavar.split()) if metavar.isupper() else 1
            if len(mine) < two:
                raise ValueError(f"{word} takes " + (
                    f"{two} words, {metavar}, without =" if two > 1 else "a value")
                    + f" (see `{ctx.command_path} --help`).")
            taken = len(mine) if metavar.endswith("...") else two
            words += [w for x in rest[:taken] for w in (word, x)][1:]
            del rest[:taken]
        return super().parse_args(ctx, words)


class Group(Helpful, TyperGroup):
    """Typer's group that names the nearest word for a wrong one."""

    implied = ""  # the word that is meant when none is named

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.implied and not (args and (args[0][:1] != "-" or args[0] in
                                           ctx.help_option_names)):
            args = [self.implied, *args]
        if not args:
            raise ValueError(
                f"a word is required: COMMAND (see `{ctx.command_path} --help`).")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        what = "action" if ctx.parent else "command"
        word = wording.choose(what, args[0], self.commands)
        return word, self.load(word), args[1:]

    def load(self, word: str) -> Any:
        """The command of that word, one of `commands`."""
        return self.commands[word]


def app(cls: type[Group] = Group) -> typer.Typer:
    """An application without words yet, to which a module adds its own."""
    return typer.Typer(cls=cls, add_completion=False, pretty_exceptions_enable=False,
                       context_settings={"help_option_names": ["-h", "--help"]})


def sentence(error: TyperException) -> str:
    """What Typer refuses, with what is allowed or the nearest that is."""
    ctx: Any = getattr(error, "ctx", None)
    see = f" (see `{ctx.command_path} --help`)." if ctx else "."
    kind, param = type(error).__name__, getattr(error, "param", None)
    if kind == "NoSuchOption":
        wrong = str(getattr(error, "option_name", ""))
        known = [o for p in ctx.command.get_params(ctx) for o in p.opts if o[0] == "-"]
        return f"unknown argument {wrong!r}{wording.nearest(wrong, known)}{see}"
    if param is None:
        said = error.format_message().rstrip(".")
        return f"{said[:1].lower()}{said[1:]}{see}"
    name = "/".join(param.opts) if param.opts[0][0] == "-" else param.metavar
    if kind == "MissingParameter":
        return f"required: {name}{see}"
    cause: Any = error.__cause__  # of pydantic
    if not hasattr(cause, "errors"):
        return f"{name}: {error.message.rstrip('.')}{see}"
    value = str(cause.errors()[0]["input"])
    if choices := param.type_descriptor.choices:
        return (f"unknown {name} {value!r}{wording.nearest(value, choices)}; allowed: "
                f"{', '.join(choices)}{see}")
    return f"{name}: {_needed(param)} is needed, not {value!r}{see}"


def _needed(param: Any) -> str:
    """Which numbers an option takes."""
    whole = param.type_descriptor.annotation is int
    of = f" of {param.name}" if param.name in ("minutes", "threads") else ""
    low, high = param.min, param.max
    reach = "" if low is None else f" from {low} on" if high is None else (
        f" from {low} to {high}")
    like = ", such as 0.4," if (whole, low, high) == (False, 0, 1) else ""
    return f"{'a whole number' if whole else 'a number'}{of}{reach}{like}"


# ------------------------------------------------------------------ options of several

Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda, cuda:k")]
Threads = Annotated[int | None, typer.Option(
    min=1, max=4 * (os.cpu_count() or 1), metavar="N",  # more would end the process
    help="CPU threads (default: $OMP_NUM_THREADS, else 1: another number rounds "
    "differently, and small networks are slower with it on a busy machine)")]

# --------------------------------------------------------------------- tables and facts


def console(stream: TextIO | None = None) -> Console:
    """Of Rich for the stream (default: standard output), which may be no terminal."""
    stream = stream or sys.stdout
    terminal = live(stream)
    return Console(file=stream, force_terminal=terminal, highlight=False, markup=False,
                   emoji=False, width=None if terminal else WIDE)


def say(*things: RenderableType) -> None:
    """Print texts and what Rich draws, a line between two tables and without spaces at
    the ends of lines. A terminal that is too narrow for a table breaks its lines, but
    no number."""
    for thing in things:
        there = console()
        least = there.measure(thing, options=there.options.update(max_width=WIDE))
        there.width = max(there.width, least.minimum if isinstance(thing, Table) else 0)
        with there.capture() as drawn:
            there.print(thing, soft_wrap=isinstance(thing, str))
        print("\n".join(x.rstrip() for x in drawn.get().splitlines()), flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]],
          left: Iterable[str] = (), title: str | None = None) -> Table:
    """Columns for `say`; those named in `left` are text, all others numbers, which are
    flush right and never broken."""
    cells = [[wording.plain(str(cell)) for cell in row] for row in rows]
    made = Table(title=title, title_justify="left", title_style="bold", pad_edge=False,
                 box=box.SIMPLE_HEAD if live(sys.stdout) else None)
    for name, *column in zip(header, *cells, strict=True):
        if name in left:
            made.add_column(name)
        else:
            widest = max(map(len, [name, *column]))
            made.add_column(name, justify="right", width=widest, no_wrap=True)
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def facts(rows: Iterable[tuple[str, str]], indent: int = 2) -> Table:
    """Lines "  name  value" for `say`; on a terminal a long value is wrapped."""
    made = Table.grid()
    made.add_column(min_width=indent + 12, no_wrap=True)
    for name, value in rows:
        made.add_row(f"{' ' * indent}{name}  ",
                     Text(wording.plain(" ".join(value.split()))))
    return made
