"""What a page's notebook allows its parameters to be, and the refusal of all else.

papermill only warns about a parameter that the notebook does not have and then runs the
defaults; its own list of parameters also misses some lines (`int | None`, a comment
with "="). Here names and types are read from the cell tagged `parameters`, and a wrong
one is refused. What else a parameter allows its comment says, in words that are read
here:

    epochs: int = 30        # of its network, 1 or more
    rate: float = 0.4       # 0 to 1
    dataset: str = "digits" # of the run: digits | cifar10 | cifar100 (needs CIFAR)
    noise: str = "symmetric"  # how labels go wrong; not "none"

Parameters that together make a run are held against `lab.setting`. Imports nothing
heavy before it is asked to.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths, wording
from ..ranges import MOST_SEED
from ..wording import Failed, nearest

PLAIN = {
    "int": "int, such as 3",
    "float": "float, such as 0.4",
    "bool": "bool, true or false",
    "str": "str",
    "list": "list, such as [0.2, 0.4]",
    "dict": "dict, such as {'a': 1}",
    "tuple": "list, such as [0.2, 0.4]",
}


@dataclass(frozen=True)
class Parameter:
    """One assignment of the parameters cell. `kinds`: the names of the types that it
    may have."""

    name: str
    kinds: tuple[str, ...]
    default: str
    about: str
    item: str = ""  # the type of a list's items, where the notebook says it

    @property
    def type(self) -> str:
        listed = [
            k + (f"[{self.item}]" if self.item and k in ("list", "tuple") else "")
            for k in self.kinds
        ]
        return " or ".join(listed) or "any"


# ---------------------------------------------------------------- what a notebook says


def read(path: Path) -> dict[str, Any]:
    """The notebook as a dict with its list of cells. ValueError for what is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return {**notebook, "cells": list(notebook["cells"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is not a notebook; allowed are .ipynb files.") from None


def source_of(cell: Mapping[str, Any]) -> str:
    """The text of a cell."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def parameters_of(path: Path) -> dict[str, Parameter]:
    """The assignments of the cell tagged `parameters`, in order; none without such a
    cell.

    The comment at the end of a line is what is said about it. The type is the
    annotation, else the type of the default; a default of None without an annotation
    may become anything.
    """
    tagged = [
        c for c in read(path)["cells"]
        if "parameters" in c.get("metadata", {}).get("tags", [])
    ]
    if not tagged:
        return {}
    text = source_of(tagged[0])
    try:
        body = ast.parse(text).body
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"the parameters cell of {path} is not plain Python ({error}).") from None
    comments = {
        t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for node in body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else (node.targets[0] if isinstance(node, ast.Assign) else None)
        )
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or value is None:
            continue
        annotation = ast.unparse(node.annotation) if isinstance(node,
                                                                ast.AnnAssign) else ""
        kinds, item = _kinds(annotation) if annotation else _kinds_of(value)
        found[target.id] = Parameter(target.id, kinds, ast.unparse(value),
                                     comments.get(node.end_lineno or 0, ""), item)
    return found


def _kinds(annotation: str) -> tuple[tuple[str, ...], str]:
    """Of "int | None": int, None; of "list[float]": list with items float; else
    anything."""
    text = annotation.strip("'\"").replace("Optional[", "None | [")
    kinds = tuple(
        dict.fromkeys(
            re.findall(
                r"\b(int|float|bool|str|list|tuple|dict|None)\b",
                re.sub(r"(list|tuple|dict)\[[^]]*\]", r"\1", text),
            )
        )
    )
    item = re.search(r"(?:list|tuple)\[(int|float|str|bool)\b", text)
    return kinds, item[1] if item else ""


def _kinds_of(value: ast.expr) -> tuple[tuple[str, ...], str]:
    try:
        default = ast.literal_eval(value)
    except ValueError:
        return (), ""
    if default is None:
        return (), ""
    kind = type(default).__name__
    items = {type(x).__name__ for x in default} if isinstance(default,
                                                              (list, tuple)) else set()
    item = "float" if items == {"int", "float"
                                } else items.pop() if len(items) == 1 else ""
    return ((kind,) if kind in PLAIN else ()), item if item in PLAIN else ""


def checked(given: Iterable[tuple[str, str]], known: Mapping[str, Parameter],
            path: Path) -> dict[str, Any]:
    """`-p` pairs as values of their parameters' types. ValueError for what is not
    allowed."""
    values: dict[str, Any] = {}
    for name, text in given:
        if not known:
            raise ValueError(
                f"{path.name} has no cell tagged `parameters`, so -p {name} would do "
                "nothing.")
        if name not in known:
            raise ValueError(
                f"{path.stem} has no parameter {name!r}{nearest(name, known)}; "
                f"allowed: {', '.join(known)}."
            )
        if name in values:
            raise ValueError(f"-p {name} is given twice; give it once.")
        values[name] = _value(text, known[name])
    return values


def _value(text: str, parameter: Parameter) -> Any:
    kinds = parameter.kinds
    if "None" in kinds and text.lower() in ("none", "null"):
        return None
    for kind in kinds:
        value = _as(text, kind)
        if value is not None and not _bad_items(value, parameter.item):
            if parameter.item == "float" and isinstance(value, list):
                value = [float(x) for x in value]
            _within(value, parameter)
            _offered(value, parameter)
            return value
    if not kinds:
        return _literal(text)
    of = f"list of {parameter.item}" if parameter.item else "list"
    allowed = " or ".join(PLAIN.get(k, k).replace("list", of) for k in kinds)
    raise ValueError(
        f"parameter {parameter.name!r} takes {allowed}, not {text!r} "
        f"(default {parameter.default})."
    )


_NUMBER = r"(-?\d+(?:\.\d+)?)"
_ALLOWED = (
    (rf"\b{_NUMBER} to {_NUMBER}\b", lambda x, low, high: low <= x <= high),
    (rf"\b{_NUMBER} or more\b", lambda x, low: x >= low),
    (rf"\bat most {_NUMBER}\b", lambda x, high: 0 <= x <= high),
    (rf"\babove {_NUMBER}\b", lambda x, low: x > low),
)
"""What a parameter's comment says of its range, and the check of it."""


def _within(value: Any, parameter: Parameter) -> None:
    """Raise ValueError for a number outside the range that the notebook's comment
    names."""
    if parameter.name == "seed" and isinstance(value, int):
        if not 0 <= value <= MOST_SEED:
            raise ValueError(
                f"parameter 'seed' takes a whole number from 0 to {MOST_SEED}, not "
                f"{value}.")
    numbers = value if isinstance(value, list) else [value]
    for x in numbers:
        if not isinstance(x, int | float) or isinstance(x, bool):
            continue
        if not math.isfinite(x):
            raise ValueError(
                f"parameter {parameter.name!r} takes a finite number, not {x}.")
        for words, holds in _ALLOWED:
            found = re.search(words, parameter.about)
            if found and not holds(x, *map(float, found.groups())):
                raise ValueError(
                    f"parameter {parameter.name!r} takes {found[0]}, not {x} "
                    f"({parameter.about}; default {parameter.default})."
                )


def choices(about: str) -> tuple[str, ...]:
    """What a comment offers: of "where from: a | b (said of it) | c" the words a, b and
    c."""
    first, *others = about.split(" | ")
    words = [part.split() for part in (first.rsplit(": ", 1)[-1], *others)]
    return tuple(part[0] for part in words if part) if others else ()


def _a_network(name: str) -> None:
    from ..training import networks

    networks.check_name(name)


def _a_state(name: str) -> None:
    from . import ledger

    wording.choose("state", name, ledger.STATES)


def _a_folder(name: str) -> None:
    from ..training import runs
    from . import ledger

    there = paths.home() / Path(name).expanduser()  # as the page finds it
    if there.exists() and not there.is_dir():
        raise ValueError(f"{name} is no folder; name one that holds recorded runs.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", runs.RecordWarning)  # the page says them
        ledger.recorded(str(there))


def _hardware(name: str) -> None:
    files = sorted((paths.home() / "data" / "bench").glob("*.json"))
    there = []
    for file in files:
        # the page says
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            there.append(
                str(json.loads(file.read_text("utf-8"))["environment"]["hardware"]))
    if len(there) == len(files) and not any(name in h for h in there):
        raise ValueError(
            f"no recorded result is from {name!r}; there are: "
            f"{', '.join(there) or 'none'}.")


_NAMED: dict[str, Callable[[str], None]] = {
    "a network": _a_network,
    "state of the ledger": _a_state,
    "a folder of recorded runs": _a_folder,
    "recorded hardware's name": _hardware,
}
"""What a comment says of a text that the library knows, and what refuses another."""


def _offered(value: Any, parameter: Parameter) -> None:
    """Raise ValueError for a text that the notebook's comment does not offer."""
    offered = choices(parameter.about)
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or repr(value) == parameter.default:
            continue
        if offered and text not in offered:
            raise ValueError(
                f"parameter {parameter.name!r} takes {', '.join(offered[:-1])} or "
                f"{offered[-1]}, not {text!r}{nearest(text, offered)}.")
        if f'not "{text}"' in parameter.about:
            raise ValueError(
                f"parameter {parameter.name!r} takes all but {text!r} here.")
        for words, check in _NAMED.items():
            if words in parameter.about:
                check(text)


_OF_A_RUN = ("dataset", "noise", "noise_rate", "budget", "seed", "methods")


def check_runs(values: Mapping[str, Any], known: Mapping[str, Parameter],
               path: Path) -> None:
    """Refuse what `lab.setting` would refuse in the kernel, and images that are not
    here.

    That is by the names that the pages give their parameters: a page with `dataset` and
    `budget` runs each of `methods` on these (seeds 0, 1, ...; recorded runs are
    loaded), or without `methods` cross entropy with its `seed`. Raises ValueError, and
    Failed without the images.
    """
    from ..data import datasets

    absent = ""
    if values.get("photographs", "recorded") != "recorded":
        absent = datasets.absent("cifar10")
    if {"dataset", "budget"} <= set(known) and set(values) & {*_OF_A_RUN, *_SEEDS} and (
        any("lab.setting(" in source_of(c) for c in read(path)["cells"])
    ):
        absent = absent or _absent_of_runs(
            {k: _literal(p.default) for k, p in known.items()}
            | dict(values))
    if absent:
        raise Failed(f"{path.stem} needs what is not here: {absent}.")


_SEEDS = ("seeds", "num_seeds")


def _absent_of_runs(all_of: Mapping[str, Any]) -> str:
    """What the runs of a page lack, all its parameters given; ValueError for an unfit
    one."""
    from .. import lab
    from ..training import runs

    lives = "methods" not in all_of
    methods = ["cross_entropy"] if lives else str(all_of["methods"]).split(",")
    if twice := next((m for m in methods if methods.count(m) > 1), ""):
        raise ValueError(f"parameter 'methods' names {twice!r} twice; name each once.")
    given = {k: all_of[k] for k in ("dataset", "noise", "budget") if k in all_of}
    if "noise_rate" in all_of:
        given["rate"] = all_of["noise_rate"]
    seed = all_of.get("seed", 0) if lives else 0
    settings = [lab.setting(method, **given, seed=seed) for method in methods]
    count = next((all_of[n] for n in _SEEDS if n in all_of), 1)
    if not lives and all(
        runs.lookup(dataclasses.replace(s, split_seed=k, noise_seed=k, init_seed=k))
        for s in settings for k in range(count)
    ):
        return ""
    from .. import noise

    return noise.absent(all_of["dataset"], str(all_of.get("noise", "")))


def _as(text: str, kind: str) -> Any:
    """`text` as that type; None when it is none."""
    if kind == "str":
        return text
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower())
    if kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            return None
    value = _literal(text)
    value = list(value) if isinstance(value, tuple) else value
    return (value if isinstance(value, dict if kind == "dict" else list)
            and kind != "None" else None)


def _literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _bad_items(value: Any, item: str) -> bool:
    allowed = {"float": (int, float), "int": (int,), "str": (str,),
               "bool": (bool,)}.get(item)
    if allowed is None or not isinstance(value, list):
        return False
    return not all(
        isinstance(x, allowed) and (item == "bool" or not isinstance(x, bool))
        for x in value)
