"""Every kind of noise, each one object (`kinds.Kind`): what it needs, and how it makes
labels and images.

    kinds       what a kind is; the register of names
    arrays      noise on plain arrays: corrupt, and what to expect of it
    matrices    labels drawn by the rows of a matrix: symmetric, asymmetric, superclass
    official    the draws of the official codes, bit for bit
    foreign     by confusion, and images of another data set
    given       labels that people, or a network, gave
    maps        which class is taken for which

A kind is added by one file: a module of this room, found by itself, or any module of
your own that calls `register`. `corrupt` draws the kinds of `KINDS` from plain arrays;
a setting names also those that need more (`lab.semantic` trains a network).
"""

import importlib
import pkgutil

from . import foreign, given, matrices, official
from .arrays import corrupt, expected_rate, expected_transition, flips
from .kinds import (
    KINDS,
    NEEDS,
    Drawn,
    Kind,
    Needs,
    NoisyLabels,
    Samples,
    absent,
    every,
    named,
    register,
)
from .maps import CIFAR100_SUPERCLASS, MAPS, class_map, superclass_of
from .official import OFFICIAL_SEEDS, drpl_imagenet_classes, official_draw

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CIFAR100_SUPERCLASS", "KINDS", "MAPS", "NEEDS", "OFFICIAL_SEEDS", "Drawn", "Kind",
    "Needs", "NoisyLabels", "Samples", "absent", "class_map", "corrupt",
    "drpl_imagenet_classes", "every", "expected_rate", "expected_transition", "flips",
    "foreign", "given", "matrices", "named", "official", "official_draw", "register",
    "superclass_of",
]
