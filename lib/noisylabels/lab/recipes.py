"""What is run: `setting(...)` resolves all that a run depends on, and refuses what does
not fit."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import typing
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from .. import methods, ranges
from .. import noise as noises
from ..data import datasets
from ..training import networks, runs
from ..training.runs import Setting
from . import semantic  # noqa: F401  (registers its kinds)
from .budgets import BUDGETS, Budget


def setting(method: str, dataset: str = "digits", noise: str = "symmetric",
            rate: float = 0.4, budget: str = "smoke", seed: int = 0, *,
            split_seed: int | None = None, noise_seed: int | None = None,
            init_seed: int | None = None, max_samples: int | None = None,
            trusted_per_class: int | None = None, val_fraction: float | None = None,
            **options: Any) -> Setting:
    """The resolved setting of one run.

    Args:
        method, dataset, noise, rate, budget: see `runs.Setting`. At the `paper` budget
            the method's published settings hold; the other budgets replace the schedule
            and the network by the rows of `BUDGETS` and whatever the method's own
            `scaled(budget, ...)` says.
        seed: of the three seeds that are not given themselves.
        max_samples: 0 means all images.
        options: any of the method's settings, by name; strings are read as the field's
            type.

    Raises:
        ValueError: unknown name or value; the message gives the nearest valid one.
    """
    module = methods.get(method)
    rate = runs._share("rate", rate)
    seed = runs._whole("seed", seed, 0, ranges.MOST_SEED)  # under its own name
    if budget not in tuple(BUDGETS):
        raise ValueError(_unknown("budget", budget, BUDGETS))
    if dataset not in datasets.NAMES:
        raise ValueError(_unknown("dataset", dataset, datasets.NAMES))
    size = BUDGETS[budget]
    if size.only and dataset != size.dataset:
        raise ValueError(
            f"the {budget} budget is made for the {size.dataset}; use "
            f"{_or(b for b in BUDGETS if not BUDGETS[b].only)} for {dataset}.")
    kind = _kind(noise, dataset)
    rate = rate if kind.fixed is None else kind.fixed
    values = {**module.published(dataset, noise, rate), **size.recipe}
    if size.scaled and hasattr(module, "scaled"):
        values |= module.scaled(budget, dataset, noise, rate)
    asked = _typed(module.Settings, options)
    if "epochs" in asked and hasattr(module.Settings, "steps"):
        values["steps"] = 0  # a length in epochs takes the place of one in steps
    values |= asked
    resolved = module.Settings(**values)
    if (asked.get("milestones") and not values.get("steps")
            and resolved.milestones[0] > resolved.epochs):
        raise ValueError(
            f"milestones ({resolved.milestones[0]}) must not exceed epochs "
            f"({resolved.epochs}): the rate would never fall.")
    if trusted_per_class is None:
        wanted = getattr(module, "trusted_per_class", None)
        trusted_per_class = 0 if wanted is None else wanted(dataset, budget)
    if max_samples is not None and not isinstance(max_samples, bool) and (
            isinstance(max_samples, numbers.Integral)
            and max_samples >= datasets.SIZES[dataset][0]):
        max_samples = 0  # all images, however many were asked for
    made = Setting(
        method=method, dataset=dataset, noise=noise, rate=rate, budget=budget,
        options=ranges.resolved(resolved),
        split_seed=seed if split_seed is None else split_seed,
        noise_seed=seed if noise_seed is None else noise_seed,
        init_seed=seed if init_seed is None else init_seed,
        max_samples=size.max_samples if max_samples is None else max_samples or None,
        trusted_per_class=trusted_per_class,
        val_fraction=size.val_fraction if val_fraction is None else val_fraction)
    check(made)
    return made


@dataclasses.dataclass(frozen=True)
class Images:
    """How many images a setting trains on, keeps for validation, trusts, and tests
    on."""

    train: int
    val: int
    trusted: int
    test: int
    all: int


def images(s: Setting) -> Images:
    """Counted as `datasets.subset` and `datasets.split` do; no data is read."""
    total, test, classes, _, _ = datasets.SIZES[s.dataset]
    chosen = min(total, s.max_samples or total)
    trusted = s.trusted_per_class * classes
    val = round(s.val_fraction * (chosen - trusted))
    return Images(max(0, chosen - trusted - val), val, trusted, test, total)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A setting that was checked, with all that it names.

    method: the method's module; recipe: its `Settings`.
    """

    setting: Setting
    method: ModuleType
    recipe: Any
    budget: Budget
    noise: noises.Kind
    images: Images

    @property
    def epochs(self) -> int:
        """All epochs of all stages."""
        counted = getattr(self.method, "total_epochs", None)
        return int(counted(self.recipe, self.images.train) if counted
                   else self.recipe.epochs)


def check(s: Setting) -> Plan:
    """Refuse, in one sentence, a setting whose parts do not go together; no data is
    read.

    Images against the network (and SANM's decoder), the noise against the classes, the
    number of images against classes, trusted samples, validation and batches. Every way
    to a run passes here: `setting`, so the commands and pages, and `prepare`. Raises
    ValueError.
    """
    n, hint, kind = images(s), _smoke(s), _kind(s.noise, s.dataset)
    module = methods.get(s.method)
    recipe = module.Settings(**s.options)
    _, _, classes, channels, pixels = datasets.SIZES[s.dataset]
    drawn, kept = min(n.all, s.max_samples or n.all), n.train + n.val + n.trusted
    if drawn < classes:
        raise ValueError(
            f"max_samples {s.max_samples} is too few: {s.dataset} has {classes} "
            f"classes, and each keeps an image at least.")
    if s.trusted_per_class * classes >= drawn:
        raise ValueError(
            f"{s.trusted_per_class} trusted samples in each of {classes} classes "
            f"leave none of {drawn:,} images to train on; lower trusted_per_class.")
    if hasattr(module, "trusted_per_class") and not s.trusted_per_class:
        raise ValueError(
            f"{s.method} needs trusted samples: set trusted_per_class to 1 or more.")
    least = datasets.smallest_class(s.dataset, s.max_samples)
    if s.trusted_per_class > least:
        raise ValueError(
            f"trusted_per_class {s.trusted_per_class} is too many: the smallest "
            f"class has only {least} of the images.")
    if n.train < 2:
        raise ValueError(f"{n.train} of {kept:,} images are left to train on; lower "
                         "val_fraction or trusted_per_class, or raise max_samples.")
    if (side := networks.last_map(recipe.network, pixels)[1]) < 2:
        fit = [name for name in networks.NAMES
               if networks.last_map(name, pixels)[1] > 1]
        raise ValueError(
            f"network {recipe.network!r} does not fit the images of {s.dataset}: of "
            f"{pixels}x{pixels} pixels its last map keeps {side}x{side}; networks "
            f"that fit: {', '.join(fit)}{hint}.")
    kind.check(s.dataset, s.rate)
    if hasattr(module, "check_data"):
        module.check_data(recipe, n.train, channels, pixels)
    return Plan(s, module, recipe, BUDGETS[s.budget], kind, n)


def settings_of(s: Setting) -> Any:
    """The method's own `Settings` object of a resolved setting."""
    return methods.get(s.method).Settings(**s.options)


def total_epochs(s: Setting, samples: int) -> int:
    """All epochs of all stages, with so many training samples."""
    counted = getattr(methods.get(s.method), "total_epochs", None)
    return int(counted(settings_of(s), samples) if counted else s.options["epochs"])


def noise_kinds(dataset: str) -> tuple[str, ...]:
    """The noise kinds a setting may name for that dataset."""
    return noises.every(dataset)


def _kind(noise: str, dataset: str) -> noises.Kind:
    """The kind of noise, where it is one of that data set."""
    known = noise_kinds(dataset)
    if noise not in known:
        raise ValueError(_unknown("noise", noise, known, _elsewhere(noise)))
    return noises.named(noise)


def _unknown(what: str, name: Any, allowed: Iterable[str], hint: str = "") -> str:
    lower = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    hint = hint or (f" (nearest: {lower[near[0]]})" if near else "")
    return f"unknown {what} {ranges.shown(name)}{hint}; allowed: {', '.join(allowed)}."


def _or(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


def _elsewhere(noise: Any) -> str:
    """Where a noise belongs that a data set does not have: " (of cifar10)", or
    nothing."""
    if noise == "human":
        each = (", ".join(k for k in noise_kinds(d) if k.startswith("human-")) +
                f" of {d}" for d in datasets.HUMAN_LABELS)
        return f" (people's labels are {' and '.join(each)})"
    others = [d for d in datasets.NAMES if noise in noise_kinds(d)]
    return f" (of {' and '.join(others)})" if others else ""


def _smoke(s: Setting) -> str:
    """How to get a network that fits the digits, where the budget chose one that does
    not."""
    own = s.options.get("network") == BUDGETS[s.budget].recipe.get("network")
    return (f"; the smoke budget takes tiny, the {s.budget} budget is made for CIFAR"
            if s.dataset == "digits" and own else "")


def _typed(cls: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`options` as the types of the dataclass's fields; unknown names and wrong types
    are errors."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    out = {}
    for name, value in options.items():
        if name not in fields:
            raise ValueError(_unknown("option", name, tuple(fields)))
        out[name] = _cast(name, value, fields[name])
    return out


def _cast(name: str, value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:  # Optional
        if value is None or value == "none":
            return None
        return _cast(name, value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        return tuple(_cast(name, p, args[0]) for p in parts if p != "")
    if kind is bool:
        if str(value).lower() in ("true", "false", "1", "0", "yes", "no"):
            return str(value).lower() in ("true", "1", "yes")
    elif kind is str and isinstance(value, str):
        return value
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number) + 0  # -0.0 is 0.0
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"option {name!r} takes {getattr(kind, '__name__', kind)}, not "
                     f"{ranges.shown(value)}.")
