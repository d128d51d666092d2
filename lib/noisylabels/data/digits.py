"""scikit-learn's digits: 1,797 images of 8x8 pixels in ten classes, which need no
file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .sets import About, Dataset, register
from .splits import draw, shares

TEST = 500  # of the 1,797 images
SEED = 0


def read(root: Path) -> Dataset:
    """scikit-learn's 8x8 digits: 1,297 train and 500 test images.

    The split: classes give to the test set in proportion to their size (largest
    remainder); within a class the images are drawn by RandomState(SEED); both
    parts keep the original order.
    """
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    # 0..16 -> 0..255
    x = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    quota = shares(np.bincount(y), TEST)
    test = draw(y, quota, np.random.RandomState(SEED))
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


register(About(
    "digits", read, of_each_class=(128, 131, 128, 132, 131, 131, 131, 129, 126, 130),
    test=TEST, channels=1, pixels=8, origin="ships with scikit-learn"))
