"""CIFAR-10: 50,000 and 10,000 photographs of 32x32 pixels, ten classes.

Sources: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
its human labels, CIFAR-10N: J. Wei et al., "Learning with Noisy Labels Revisited: A
Study Using Real-World Human Annotations", ICLR 2022.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from . import cifar
from .sets import About, Dataset, register

CIFAR10_CLASSES = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split())
_SHA1 = (
    "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "26e2849e66a845b7f1e4614ae70f4889ae604628",
)
SOURCE = cifar.SOURCES["cifar10"] = cifar.Source(
    name="cifar10", title="CIFAR-10", binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py", label_keys=("labels",),
    train=tuple(cifar.Part(f"data_batch_{i}.bin", f"data_batch_{i}", 10_000, sha1)
                for i, sha1 in enumerate(_SHA1, start=1)),
    test=cifar.Part("test_batch.bin", "test_batch", 10_000,
                    "67eb016db431130d61cd03c7ad570b013799c88c"))
HUMAN = {
    "aggre": "aggre_label",  # majority of three annotators
    "worse": "worse_label",  # a wrong one of the three, where there is one
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}


def read(root: Path) -> Dataset:
    raw = cifar.read(cifar.SOURCES["cifar10"], root)
    return Dataset(
        name="cifar10",
        x_train=raw.x_train,
        y_train=raw.labels_train[0],
        x_test=raw.x_test,
        y_test=raw.labels_test[0],
        class_names=CIFAR10_CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    )


register(About(
    "cifar10", read, of_each_class=(5_000,) * 10, test=10_000, human=HUMAN,
    folders=(SOURCE.binary_folder, SOURCE.python_folder),
    download=partial(cifar.download, "cifar10")))
