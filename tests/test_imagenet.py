"""The downsampled ImageNet in miniature: official format, DRPL's classes, nothing executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from noisylabels import noise
from noisylabels.data import datasets, imagenet

FIRST_TEN = [521, 737, 740, 660, 411, 678, 626, 513, 859, 136]  # DRPL's list of class ids


def images(ids: np.ndarray, size: int, salt: int) -> np.ndarray:
    """(n, 3 S S): plane c of image k holds a number made from class, colour and place."""
    x = np.zeros((len(ids), 3, size, size), np.uint8)
    x += (ids % 251).astype(np.uint8)[:, None, None, None]
    x += np.array([0, 1, 2], np.uint8)[None, :, None, None] + salt
    x[:, :, 0, 1] = 7
    return x.reshape(len(ids), -1)


def write(folder, size: int, *, protocol=4, as_array=False, known=range(1000)):
    """Ten train files and a test file; one train image a class and file, five test images."""
    known = np.array(known)
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate((*imagenet.TRAIN, imagenet.TEST)):
        rng = np.random.RandomState(k)
        ids = rng.permutation(known if name != imagenet.TEST else np.repeat(known, 5))
        labels = ids + 1
        content = {"data": images(ids, size, k), "mean": np.full(3 * size * size, 0.5),
                   "labels": labels.astype(np.int64) if as_array else labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    base = tmp_path_factory.mktemp("imagenet")
    write(base / "imagenet32", 32)
    return base


def test_the_classes_are_drpls():
    task, pool = imagenet.classes()
    assert task[:10].tolist() == FIRST_TEN and task[-1] == 826
    assert len(task) == 100 and len(pool) == 900
    assert torch.equal(torch.cat([task, pool]).sort().values, torch.arange(1000))
    assert all(torch.equal(a, b) for a, b in zip((task, pool), noise.drpl_imagenet_classes(),
                                                 strict=True))


def test_the_task_has_the_positions_as_labels(root):
    data = datasets.load("imagenet32", root)
    assert data.x_train.shape == (1000, 3, 32, 32) and data.x_test.shape == (500, 3, 32, 32)
    assert torch.bincount(data.y_train).tolist() == [10] * 100
    assert torch.bincount(data.y_test).tolist() == [5] * 100
    assert (data.num_classes, data.pad, data.flip, data.image_size) == (100, 4, True, 32)
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)
    task, _ = imagenet.classes()
    first = np.random.RandomState(0).permutation(1000)  # of the first file, in its order
    ids = [k for k in first if k in set(task.tolist())]
    assert task[data.y_train[:100]].tolist() == ids
    red = data.x_train[:100, 0, 5, 5]
    assert red.tolist() == [k % 251 for k in ids]
    assert torch.equal(data.x_train[:, 2, 5, 5], data.x_train[:, 0, 5, 5] + 2), "colour planes"
    assert (data.x_train[:, :, 0, 1] == 7).all() and (data.x_train[:, :, 1, 0] != 7).any()
    assert data.class_names[:2] == ("class 521", "class 737")


def test_the_pool_can_be_read_too(root):
    _, pool = imagenet.classes()
    x, y = imagenet.read("imagenet32", root, pool[:3], train=False)
    assert x.shape == (15, 3, 32, 32) and torch.bincount(y).tolist() == [5, 5, 5]


@pytest.mark.parametrize("protocol, as_array", [(2, False), (3, True), (4, False)])
def test_other_protocols_and_sizes(tmp_path, protocol, as_array):
    folder = write(tmp_path / "Imagenet64_train", 64, protocol=protocol, as_array=as_array,
                   known=[5, *FIRST_TEN])
    test = tmp_path / "Imagenet64_val"
    test.mkdir()
    os.rename(folder / imagenet.TEST, test / imagenet.TEST)
    task, _ = imagenet.classes()
    x, y = imagenet.read("imagenet64", tmp_path, task[:2], train=False)
    assert x.shape == (10, 3, 64, 64) and y.bincount().tolist() == [5, 5]
    assert imagenet.read("imagenet64", tmp_path, task[:1])[0].shape[0] == 10
    with pytest.raises(ValueError, match="12288 bytes"):
        os.rename(folder / imagenet.TRAIN[1], test / imagenet.TRAIN[1])
        (folder / imagenet.TRAIN[1]).write_bytes(pickle.dumps(
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}))
        imagenet.read("imagenet64", tmp_path, task)


def test_names_come_from_the_official_list(root, tmp_path):
    task, _ = imagenet.classes()
    (root / "imagenet32" / "map_clsloc.txt").write_text(
        "".join(f"n{k:08d} {k + 1} name_{k}\n" for k in range(1000)))
    names = imagenet.class_names("imagenet32", root, task)
    assert names[:2] == ("name_521", "name_737") and len(names) == 100
    (root / "imagenet32" / "map_clsloc.txt").write_text("n1 1 kit_fox\n")
    with pytest.raises(ValueError, match="must name the classes 1 to 1000"):
        imagenet.class_names("imagenet32", root, task)
    (root / "imagenet32" / "map_clsloc.txt").unlink()


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content, words", [
    (Evil(), "refused, it asks for (posix|nt).system"),
    ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, "not u1"),
    ({"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), "labels": [1, 2]}, "C order"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1001]}, "labels from 1 to 1001"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 5]}, "labels from 0 to 5"),
    ({"data": np.zeros((2, 3072), np.uint8), "labels": [5]}, "and 1 labels"),
    ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "and 0 labels"),
    ({"labels": [1]}, "it has no 'data'"), ([1, 2], "cannot be read"), (b"x", "cannot be read")])
def test_a_bad_file_is_refused_and_nothing_runs(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    raw = content if isinstance(content, bytes) else pickle.dumps(content)
    (folder / imagenet.TRAIN[0]).write_bytes(raw)
    with pytest.raises(ValueError, match=words) as error:
        imagenet.read("imagenet32", tmp_path, torch.arange(1000))
    assert "train_data_batch_1" in str(error.value) and "unpack them there" in str(error.value)
    assert not (tmp_path / "evil").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_data_batch_1 of imagenet32 is not in"):
        datasets.load("imagenet32", tmp_path)
