"""`noisylabels page`: run a page's notebook with other parameters, checked before it
starts.

papermill only warns about a parameter that the notebook does not have and then runs the
defaults; its own list of parameters also misses some lines (`int | None`, a comment
with "="). Here names and types are read from the cell tagged `parameters`, and a wrong
one is refused. What else a parameter allows its comment says, in words that are read
here:

    epochs: int = 30        # of its network, 1 or more
    rate: float = 0.4       # 0 to 1
    dataset: str = "digits" # of the run: digits | cifar10 | cifar100 (needs CIFAR)
    noise: str = "symmetric"  # how labels go wrong; not "none"

Parameters that together make a run are held against `lab.setting` before a kernel
starts. The output gets its name only when the whole notebook ran.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths, processes, wording
from ..ranges import MOST_SEED
from ..wording import Failed, nearest
from . import common

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


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "name",
        nargs="?",
        metavar="NAME|PATH",
        help="a notebook of notebooks/ without .ipynb, or the path of one",
    )
    p.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="set a parameter; may be given often",
    )
    p.add_argument(
        "-o",
        dest="out",
        metavar="OUT.ipynb",
        help="where the page goes (default: _build/pages, named by its parameters)",
    )
    p.add_argument("--list", action="store_true", help="list the pages, and stop")
    p.add_argument(
        "--help-parameters",
        action="store_true",
        help="list the page's parameters with types and defaults, and stop",
    )


def main(args: argparse.Namespace) -> int:
    if joined := next((k for k, _ in args.parameters if "=" in k), ""):
        raise ValueError(
            f"-p takes two words, KEY VALUE: -p {joined.replace('=', ' ', 1)}.")
    if args.list:
        if args.name is not None or args.parameters or args.out is not None:
            raise ValueError(
                "--list lists the pages and takes no page, -p or -o; a page's parameters are "
                "listed by `noisylabels page NAME --help-parameters`.")
        print(listing())
        return 0
    if args.name is None:
        raise ValueError(
            "a page is needed: `noisylabels page NAME`; `noisylabels page --list` lists them."
        )
    source = find(args.name)
    known = parameters_of(source)
    if args.help_parameters:
        print(
            wording.table(
                ("parameter", "type", "default", "what it is"),
                [(p.name, p.type, p.default, p.about) for p in known.values()],
                ("parameter", "type", "default", "what it is"),
            )
            if known
            else f"{source.name} has no parameters."
        )
        return 0
    values = checked(args.parameters, known, source)
    check_runs(values, known, source)
    out = Path(args.out) if args.out else default_output(source, values)
    if out.suffix != ".ipynb":
        raise ValueError(f"the output must be named *.ipynb, not {args.out!r}.")
    if out.exists() and out.samefile(source):
        raise ValueError(
            "the output must not be the notebook itself; name another file with -o.")
    check_output(out.absolute())
    return run(source, out.absolute(), values)


def check_output(out: Path) -> None:
    """Raise ValueError where a page would take the place of what this command has not
    made."""
    for folder in ("notebooks", "book/executed"):
        if out.resolve().is_relative_to((paths.home() / folder).resolve()):
            raise ValueError(
                f"the output must not lie in {folder}/; name another file with -o.")
    for there in (out, _failed(out)):
        if there.exists() and not _made_here(there):
            raise ValueError(
                f"{wording.shown(there)} is there and no page of this command; name another "
                "file with -o.")


def _failed(out: Path) -> Path:
    """Where what ran of a page that failed is kept."""
    return out.with_name(f"{out.stem}.failed.ipynb")


def _made_here(path: Path) -> bool:
    try:
        return "papermill" in _read(path).get("metadata", {})
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------- which page, with what


def _notebooks() -> dict[str, Path]:
    return {p.stem: p for p in sorted((paths.home() / "notebooks").glob("*.ipynb"))}


def find(name: str) -> Path:
    """The notebook of that name or path."""
    known = _notebooks()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name).absolute()
    if Path(name).suffix == ".ipynb" or Path(name).name != name:
        raise ValueError(
            f"there is no notebook {name}{nearest(Path(name).stem, known)}; pages are "
            "listed by `noisylabels page --list`."
        )
    return known[wording.choose("page", name, known)]


def listing() -> str:
    """Every page with its title."""
    rows = [(name, _title(_read(path))) for name, path in _notebooks().items()]
    if not rows:
        return f"no notebooks in {wording.shown(paths.home() / 'notebooks')}"
    return wording.table(("page", "title"), rows, ("page", "title"))


def _title(notebook: Mapping[str, Any]) -> str:
    for cell in notebook["cells"]:
        if title := re.search(r"^# (.+)$", _source(cell), re.MULTILINE):
            return title[1] if cell["cell_type"] == "markdown" else ""
    return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return {**notebook, "cells": list(notebook["cells"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is not a notebook; allowed are .ipynb files.") from None


def _source(cell: Mapping[str, Any]) -> str:
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
        c for c in _read(path)["cells"]
        if "parameters" in c.get("metadata", {}).get("tags", [])
    ]
    if not tagged:
        return {}
    text = _source(tagged[0])
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


def checked(given: list[list[str]], known: Mapping[str, Parameter],
            path: Path) -> dict[str, Any]:
    """`-p` pairs as values of their parameters' types. ValueError for what is not
    allowed."""
    values: dict[str, Any] = {}
    for name, text in given:
        if not known:
            raise ValueError(
                f"{path.name} has no cell tagged `parameters`, so -p {name} would do nothing."
            )
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
                f"parameter 'seed' takes a whole number from 0 to {MOST_SEED}, not {value}."
            )
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
    from ..evidence import ledger

    wording.choose("state", name, ledger.STATES)


def _a_folder(name: str) -> None:
    from ..evidence import ledger
    from ..training import runs

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
            f"no recorded result is from {name!r}; there are: {', '.join(there) or 'none'}."
        )


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
                f"parameter {parameter.name!r} takes {', '.join(offered[:-1])} or {offered[-1]}, "
                f"not {text!r}{nearest(text, offered)}.")
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
        any("lab.setting(" in _source(c) for c in _read(path)["cells"])
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


def default_output(source: Path, values: Mapping[str, Any]) -> Path:
    """_build/pages/NAME-key-value.ipynb below the project's folder, which git
    ignores."""
    words = [source.stem, *(f"{k}-{v}" for k, v in sorted(values.items()))]
    name = re.sub(r"[^\w.+-]+", "_", "-".join(words))[:120]
    return paths.home() / "_build" / "pages" / f"{name}.ipynb"


# ------------------------------------------------------------------------------ running


def run(source: Path, out: Path, values: Mapping[str, Any]) -> int:
    """papermill in a process of its own, from the project's folder, one thread."""
    import yaml

    if missing("papermill"):
        raise Failed(
            "papermill is not installed, and it runs the pages; `pip install papermill`."
        )
    part = out.with_name(f".{out.stem}.part.ipynb")
    failed = _failed(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise Failed(
            f"no page can be written to {wording.shown(out.parent)}: {error.strerror}; name "
            "another place with -o.") from error
    live = common.live(sys.stderr)
    command = [
        sys.executable,
        "-m",
        "papermill",
        _as_it_is(source),
        _as_it_is(part),
        "-k",
        "python3",
        "--log-level",
        "ERROR",
        "--progress-bar" if live else "--no-progress-bar",
    ]
    if values:
        command += ["-y", yaml.safe_dump(dict(values))]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",  # pages hold more than ASCII, whatever the locale
        "NOISYLABELS_HOME": str(paths.home()),
        # whatever folder it is said from
        "NOISYLABELS_DATA": str(paths.datasets_dir()),
    }
    told = ", ".join(f"{k}={v!r}" for k, v in values.items()) or "its defaults"
    print(f"running {source.stem} with {told}", flush=True)
    begun = time.monotonic()
    with _interrupted_by(*processes.endings()):
        process = subprocess.Popen(
            command,
            cwd=paths.home(),
            env=env,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.DEVNULL,
            stderr=None if live else subprocess.PIPE,
            # else papermill would print its traceback at Ctrl-C
            **processes.own_group(),
        )
        try:
            said = process.communicate()[1] or ""
        except KeyboardInterrupt:
            processes.end_group(process)  # its kernel notices and stops by itself
            try:
                process.wait(15)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                processes.end_group(process, kill=True)
            part.unlink(missing_ok=True)
            raise
    ran, cut = None, ""
    if part.is_file():
        try:
            ran = _read(part)
        except ValueError:
            cut = "; its output was cut off, so see whether the disk is full"
            part.unlink(missing_ok=True)
    problem = fault(ran) if ran else None
    if process.returncode or problem or ran is None:
        kept = cut
        if ran is not None:
            part.replace(failed)
            kept = f"; what ran before it is in {wording.shown(failed)}"
        last = [line for line in said.strip().splitlines() if line.strip()
                ][-1:] or ["no message"]
        raise Failed(f"{source.stem} failed {problem or f'({last[0].strip()})'}{kept}.")
    ran["metadata"].setdefault("papermill",
                               {})["output_path"] = os.fsencode(out).decode(
                                   "utf-8", "replace")
    try:
        part.write_text(
            json.dumps(ran, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failed(
            f"{source.stem} ran, but {wording.shown(out)} could not be written: "
            f"{error.strerror}; free the disk or name another place with -o."
        ) from error
    failed.unlink(missing_ok=True)
    print(
        f"done in {wording.duration(math.ceil(time.monotonic() - begun))}: {wording.shown(out)}"
    )
    return 0


def _as_it_is(path: Path) -> str:
    """For papermill, which puts parameters into braces of its two paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
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


def fault(notebook: Mapping[str, Any]) -> str | None:
    """The first error of a run, with the code cell in which it happened."""
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                said = " ".join(str(output["evalue"]).split()).rstrip(".")
                return f"in code cell {number} of {len(code)} with {output['ename']}: {said}"
    return None


def missing(package: str) -> bool:
    """Whether that package cannot be imported."""
    from importlib.util import find_spec

    return find_spec(package) is None
