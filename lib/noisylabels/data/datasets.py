"""Images and their labels: digits, CIFAR-10, CIFAR-100, and the human labels of
CIFAR-N.

`load(name)` gives a `Dataset` of uint8 image tensors in the official order. `digits`
ships with scikit-learn and needs no file. CIFAR is read from either official layout,
and every record is checked against the SHA-1 of the official binary files on every
load: pixels, labels and order are the official ones, or there is an error. Only
`download` ever uses the network.

Sources: CIFAR: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009. CIFAR-10N, CIFAR-100N: J. Wei et al., "Learning with Noisy Labels Revisited: A
Study Using Real-World Human Annotations", ICLR 2022.
"""

from __future__ import annotations

import dataclasses
import difflib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import paths
from . import cifar, imagenet
from .torchvision_guard import import_torchvision

NAMES = ("digits", "cifar10", "cifar100")
SIZES = {
    "digits": (1_297, 500, 10, 1, 8),
    "cifar10": (50_000, 10_000, 10, 3, 32),
    "cifar100": (50_000, 10_000, 100, 3, 32),
}
"""Data set -> training images, test images, classes, channels, pixels a side; known unread."""
_OF_EACH_CLASS = {
    "digits": (128, 131, 128, 132, 131, 131, 131, 129, 126, 130),
    "cifar10": (5_000,) * 10,
    "cifar100": (500,) * 100,
}
"""Training images of each class, known unread."""

CIFAR10_CLASSES = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR100_CLASSES = tuple("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split())
CIFAR100_SUPERCLASSES = tuple("""
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
    """.split())
# the superclass of each of the 100 classes; five classes have the same one
CIFAR100_COARSE = (*(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11,
                     6, 11, 5, 10, 7), *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9,
                                         11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
                   *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9,
                     19, 2, 10, 0, 1, 16),
                   *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15,
                     6, 0, 17, 8, 14, 13),
                   )

# our names of the human label sets -> their keys in the CIFAR-N files
HUMAN_LABELS = {
    "cifar10": {
        "aggre": "aggre_label",  # majority of three annotators
        "worse": "worse_label",  # a wrong one of the three, where there is one
        "random1": "random_label1",
        "random2": "random_label2",
        "random3": "random_label3",
    },
    "cifar100": {"noisy_fine": "noisy_label", "noisy_coarse": "noisy_coarse_label"},
}

DIGITS_TEST = 500  # of load_digits' 1,797 images
DIGITS_SEED = 0


# -------------------------------------------------------------------------- the dataset


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset in memory, on the CPU, in its official order.

    x_train, x_test: uint8 (N, C, H, W), H = W. y_train, y_test: the true labels, int64
    (N,). mean, std: per channel, of the train set, on the [0, 1] scale. pad: padding
    for random crops, in pixels. flip: whether a mirrored image keeps its class.
    coarse_*: superclasses, if any. Raises ValueError when the parts do not fit
    together.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 4
    flip: bool = True
    coarse_train: Tensor | None = None
    coarse_test: Tensor | None = None
    coarse_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[2] != x.shape[3]:
                raise ValueError(
                    f"x_{part} must be square uint8 images (N, C, H, W), "
                    f"got {x.dtype} {tuple(x.shape)}"
                )
            _check_labels(y, self.num_classes, f"y_{part}", len(x))
            coarse = getattr(self, f"coarse_{part}")
            if coarse is not None:
                _check_labels(coarse, len(self.coarse_names or ()), f"coarse_{part}",
                              len(x))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"train and test images must have one shape, got {tuple(self.x_train.shape[1:])} "
                f"and {tuple(self.x_test.shape[1:])}")
        numbers = np.array([*self.mean, *self.std])
        if (not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0
                or not np.isfinite(numbers).all()):
            raise ValueError(
                f"a finite mean and a positive std are needed for each of {self.channels} "
                f"channel(s), got {self.mean} and {self.std}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.x_train.shape[-1]

    @property
    def channels(self) -> int:
        return self.x_train.shape[1]


def load(name: str, root: Path | None = None) -> Dataset:
    """The dataset `name`: "digits", "cifar10" or "cifar100"; also "imagenet32" or
    "imagenet64", DRPL's 100 classes of the downsampled ImageNet, where its files are at
    hand.

    root: the folder that holds `cifar-10-batches-bin` or `cifar-10-batches-py`
    (`cifar-100-binary` or `cifar-100-python`); default `paths.datasets_dir()`. Where
    one layout is damaged and the other whole, the whole one is read, with a warning.
    Raises ValueError for an unknown name or a damaged file, FileNotFoundError for a
    missing one; both say how to mend it.
    """
    if name in imagenet.SIZES:
        return _load_imagenet(name, _root(root))
    _known(name, NAMES, "dataset")
    if name == "digits":
        return _digits()
    return _load_cifar(name, _root(root))


def download(name: str, root: Path | None = None) -> Path:
    """Fetch CIFAR-10 or CIFAR-100 by torchvision into `root`, check it, return its
    folder.

    Files that are there and whole are kept. Raises ConnectionError when it cannot be
    fetched.
    """
    _known(name, NAMES, "dataset")
    if name == "digits":
        raise ValueError("digits ships with scikit-learn: there is nothing to download")
    source, root = cifar.SOURCES[name], _root(root)
    torchvision = import_torchvision()
    try:
        getattr(torchvision.datasets, name.upper())(str(root), train=True,
                                                    download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"{source.title} could not be downloaded into {root} ({error}): check the network, or "
            f"unpack the archive of https://www.cs.toronto.edu/~kriz/cifar.html there by hand"
        ) from error
    cifar.read_python(source, root)
    return root / source.python_folder


def _root(root: Path | None) -> Path:
    return paths.datasets_dir() if root is None else Path(root).expanduser()


def _known(name: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not allowed, with the nearest one that is."""
    allowed = tuple(allowed)
    if name in allowed:
        return
    plain = str(name).lower().replace("-", "").replace("_", "").replace(" ", "")
    near = difflib.get_close_matches(plain, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}allowed: {', '.join(allowed)}")


def _check_labels(y: Tensor, num_classes: int, what: str,
                  count: int | None = None) -> None:
    if y.dtype != torch.int64 or y.dim() != 1:
        raise ValueError(f"{what} must be int64 (N,), got {y.dtype} {tuple(y.shape)}")
    if count is not None and len(y) != count:
        raise ValueError(f"{what} must hold {count:,} labels, got {len(y):,}")
    if len(y) == 0:
        raise ValueError(f"{what} is empty: at least one label is needed")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{what} must lie in 0..{num_classes - 1}, got {low}..{high}")


# ------------------------------------------------------------------------------- digits


def _digits() -> Dataset:
    """scikit-learn's 8x8 digits: 1,297 train and 500 test images.

    The split: classes give to the test set in proportion to their size (largest
    remainder); within a class the images are drawn by RandomState(DIGITS_SEED); both
    parts keep the original order.
    """
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    # 0..16 -> 0..255
    x = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    quota = _shares(np.bincount(y), DIGITS_TEST)
    test = _draw(y, quota, np.random.RandomState(DIGITS_SEED))
    train = np.setdiff1d(np.arange(len(y)), test)
    scaled = x[train] / 255
    return Dataset(
        name="digits",
        x_train=torch.from_numpy(x[train]),
        y_train=torch.from_numpy(y[train]),
        x_test=torch.from_numpy(x[test]),
        y_test=torch.from_numpy(y[test]),
        class_names=tuple("0123456789"),
        mean=(float(scaled.mean()),),
        std=(float(scaled.std()),),
        pad=1,
        flip=False,
    )


# -------------------------------------------------------------------------------- CIFAR


def _load_cifar(name: str, root: Path) -> Dataset:
    raw = cifar.read(cifar.SOURCES[name], root)
    if name == "cifar10":
        return Dataset(
            name=name,
            x_train=raw.x_train,
            y_train=raw.labels_train[0],
            x_test=raw.x_test,
            y_test=raw.labels_test[0],
            class_names=CIFAR10_CLASSES,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        )
    return Dataset(
        name=name,
        x_train=raw.x_train,
        y_train=raw.labels_train[1],
        x_test=raw.x_test,
        y_test=raw.labels_test[1],
        class_names=CIFAR100_CLASSES,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        coarse_train=raw.labels_train[0],
        coarse_test=raw.labels_test[0],
        coarse_names=CIFAR100_SUPERCLASSES,
    )


# ----------------------------------------------------------------- downsampled ImageNet


def _load_imagenet(name: str, root: Path) -> Dataset:
    """DRPL's task: the train and the validation images of the first 100 permuted
    classes."""
    wanted, _ = imagenet.classes()
    x_train, y_train = imagenet.read(name, root, wanted)
    x_test, y_test = imagenet.read(name, root, wanted, train=False)
    return Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=imagenet.class_names(name, root, wanted),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pad=imagenet.SIZES[name] // 8,
    )


# ------------------------------------------------------------------------- human labels

_HUMAN_COUNT = 50_000
_HUMAN_FILES = {  # packed (in cifar_n/), official
    "cifar10": ("cifar10n.npz", "CIFAR-10_human.pt"),
    "cifar100": ("cifar100n.npz", "CIFAR-100_human.pt"),
}


def human_labels(
    name: str, which: str, root: Path | None = None, *, y_true: Tensor | None = None
) -> Tensor:
    """The labels that people gave to the train images, int64 (N,), in the order of
    `y_train`.

    CIFAR-10N: which is "aggre", "worse", "random1", "random2" or "random3"; CIFAR-100N:
    "noisy_fine", or "noisy_coarse" (superclasses, 0..19). Read from
    `cifar_n/cifar10n.npz` or from the official `CIFAR-10_human.pt` (for CIFAR-100N
    `cifar100n.npz`, `CIFAR-100_human.pt`) in `root`, default `paths.datasets_dir()`, or
    its folder `cifar_n`.

    y_true: the dataset's whole `y_train`; it is compared with the true labels of the
    file, so that human labels of another order are refused. Raises ValueError for an
    unknown name or a damaged file, FileNotFoundError for a missing one. Source: Wei et
    al., ICLR 2022.
    """
    _known(name, HUMAN_LABELS, "dataset with human labels")
    _known(which, HUMAN_LABELS[name], f"human labels of {name}")
    root = _root(root)
    packed, official = _HUMAN_FILES[name]
    mend = f"get data/{official} from https://github.com/UCSC-REAL/cifar-10-100n"
    tried = (root / "cifar_n" / packed, root / "cifar_n" / official, root / official)
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no human labels of {name} in {root}: expected {official} or cifar_n/{packed}; {mend}"
        )
    fine = 10 if name == "cifar10" else 100
    try:
        content = _read_human(path)
        clean = _column(content, "clean_label", fine)
        if which == "noisy_coarse" and "noisy_coarse_label" not in content:
            # the people named a fine class; its superclass is their coarse label
            y = torch.tensor(CIFAR100_COARSE)[_column(content, "noisy_label", fine)]
        else:
            classes = len(CIFAR100_SUPERCLASSES) if which == "noisy_coarse" else fine
            y = _column(content, HUMAN_LABELS[name][which], classes)
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(
            f"{path} cannot be read ({cifar.reason(error, path)}): expected "
            f"{_HUMAN_COUNT:,} labels each under {', '.join(HUMAN_LABELS[name].values())} and "
            f"clean_label; {mend}") from error
    if y_true is not None and not torch.equal(clean, y_true.cpu().long()):
        raise ValueError(
            f"{path} is of other images or another order: its clean_label is not y_true; {mend}"
        )
    return y


def _read_human(path: Path) -> dict[str, Any]:
    """The arrays of a human label file; a changed byte in a zip archive is an error."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise cifar.Refused(f"the checksum of its entry {entry} is wrong")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    # numpy 2 moved it; old files have its old name
    reconstruct = np.empty(0).__reduce__()[0]
    integers = [type(np.dtype(kind)) for kind in ("u1", "i1", "i2", "i4", "i8")]
    allowed: list[Any] = [
        reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct")
    ]
    with torch.serialization.safe_globals([*allowed, np.ndarray, np.dtype, *integers]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _column(content: dict[str, Any], key: str, num_classes: int) -> Tensor:
    if key not in content:
        raise cifar.Refused(f"it has no {key}, only {', '.join(map(str, content))}")
    y = np.asarray(content[key]).reshape(-1)
    if y.dtype.kind not in "iu":
        raise cifar.Refused(f"{key} holds {y.dtype}, not whole numbers")
    labels = torch.from_numpy(y.astype(np.int64))
    try:
        _check_labels(labels, num_classes, key, _HUMAN_COUNT)
    except ValueError as error:
        raise cifar.Refused(str(error)) from error
    return labels


# ------------------------------------------------------------ splits and random subsets


@dataclass(frozen=True, eq=False)
class Split:
    """Three sets of indices into the train set, int64, sorted, disjoint, together all
    of it."""

    train: Tensor
    trusted: Tensor
    val: Tensor


def split(
    y_true: Tensor,
    num_classes: int,
    *,
    trusted_per_class: int = 0,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> Split:
    """Set trusted and validation samples apart from the train set.

    y_true: int64 (N,). trusted: `trusted_per_class` random samples of each true class;
    with the same seed a larger number only adds samples. val: a random `val_fraction`
    of the rest, rounded to whole samples (its labels will be noisy: it stands for what
    a user could hold out). Raises ValueError when a class has too few samples or
    nothing is left to train on.
    """
    _check_labels(y_true, num_classes, "y_true")
    if trusted_per_class < 0:
        raise ValueError(
            f"trusted_per_class must be 0 or more, got {trusted_per_class}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    y, random = y_true.cpu().numpy(), np.random.RandomState(seed)
    counts = np.bincount(y, minlength=num_classes)
    if trusted_per_class > counts.min():
        raise ValueError(
            f"trusted_per_class {trusted_per_class} is too many: class {counts.argmin()} has only "
            f"{counts.min()} samples")
    trusted = _draw(y, np.full(num_classes, trusted_per_class), random)
    rest = np.setdiff1d(np.arange(len(y)), trusted)
    held_out = round(val_fraction * len(rest))
    if held_out == len(rest):
        raise ValueError(
            f"nothing is left to train on: {len(y)} samples, {len(trusted)} of them trusted, "
            f"{held_out} for validation")
    rest = random.permutation(rest)
    return Split(
        train=torch.from_numpy(np.sort(rest[held_out:])),
        trusted=torch.from_numpy(trusted),
        val=torch.from_numpy(np.sort(rest[:held_out])),
    )


def subset(dataset: Dataset, max_samples: int, seed: int = 0) -> tuple[Dataset, Tensor]:
    """The dataset with a random part of its train set, and the sorted indices of that
    part, int64.

    Each class keeps its share of the train set (largest remainder); the test set and
    the normalisation stay. With `max_samples` of N or more all samples stay. Raises
    ValueError when `max_samples` is below the number of classes.
    """
    if max_samples < dataset.num_classes:
        raise ValueError(
            f"max_samples must be at least {dataset.num_classes}, one per class of "
            f"{dataset.name}, got {max_samples}"
        )
    y = dataset.y_train.numpy()
    quota = _shares(np.bincount(y, minlength=dataset.num_classes),
                    min(max_samples, len(y)))
    index = torch.from_numpy(_draw(y, quota, np.random.RandomState(seed)))
    coarse = dataset.coarse_train
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[index],
        y_train=dataset.y_train[index],
        coarse_train=None if coarse is None else coarse[index],
    ), index


def smallest_class(name: str, max_samples: int | None = None) -> int:
    """Images of the smallest class of the train set, or of a `subset` of it; no data is
    read."""
    counts = np.array(_OF_EACH_CLASS[name])
    return int(_shares(counts, min(max_samples or counts.sum(), counts.sum())).min())


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts` by largest remainder; ties: the
    lower class."""
    whole, rest = np.divmod(counts * total, counts.sum())
    order = np.argsort(-rest, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def _draw(y: np.ndarray, quota: np.ndarray,
          random: np.random.RandomState) -> np.ndarray:
    """Sorted indices: of each class the first `quota` samples of a random
    permutation."""
    picked = [
        random.permutation(np.flatnonzero(y == c))[:n] for c, n in enumerate(quota)
    ]
    return np.sort(np.concatenate(picked))


def absent(dataset: str, noise: str = "") -> str:
    """What is not here of a data set and of its human labels, with the command that
    brings it; "" where all is. Files are looked for, not read."""
    if (source := cifar.SOURCES.get(dataset)) is not None:
        folders = (source.binary_folder, source.python_folder)
        if not any((paths.datasets_dir() / f).is_dir() for f in folders):
            return f"{dataset} (`noisylabels doctor --download {dataset}`)"
    if noise.startswith("human-"):
        try:
            human_labels(dataset, noise.removeprefix("human-"))
        except FileNotFoundError:
            return f"human labels of {dataset} (see `noisylabels doctor`)"
    return ""
