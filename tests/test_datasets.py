"""datasets: exact counts and checksums on the real data, every error path on made-up files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import pickle
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisylabels.data import cifar, datasets, imagenet, splits, torchvision_guard

DOCTOR = "noisylabels doctor --download"

# the digits split: images of each class, mean and deviation of the train set, the test set's bytes
TRAIN_COUNTS = [128, 131, 128, 132, 131, 131, 131, 129, 126, 130]
TEST_COUNTS = [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
MEAN, STD = 0.3060774203667589, 0.3764268791889225
TEST_SHA1 = "3eadb54d16ddb53159e2bb6e8bcbb1ef836bec0b"
# split() of three classes of 50, 60 and 70: 5 trusted of each, 20 % for validation, seed 0
SPLIT_TRUSTED = [13, 16, 33, 34, 41, 42, 68, 72, 85, 113, 127, 138, 145, 160, 179]
SPLIT_VAL = [4, 6, 7, 15, 17, 22, 28, 43, 44, 53]


# ----------------------------------------------------------------- small made-up files of a CIFAR


def made_up_records(count: int, kinds: int, seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    records = random.randint(0, 256, (count, kinds + 3072)).astype(np.uint8)
    records[:, :kinds] = random.randint(0, 10, (count, kinds))
    return records


def write_binary(folder: Path, part: cifar.Part, records: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    (folder / part.binary).write_bytes(records.tobytes())


def write_python(folder: Path, part: cifar.Part, records: np.ndarray, keys, protocol=2) -> None:
    folder.mkdir(exist_ok=True)
    content = {k: column.tolist() for k, column in zip(keys, records.T, strict=False)}
    content["data"] = records[:, len(keys) :].copy()
    content["filenames"] = [b"made_up.png"] * len(records)
    (folder / part.python).write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture(params=["cifar10", "cifar100"])
def small(request, tmp_path, monkeypatch):
    """A CIFAR of 3 to 5 images a file: (source with its own SHA-1s, records of each file)."""
    source = cifar.SOURCES[request.param]
    kinds, records = len(source.label_keys), {}

    def shrink(part: cifar.Part, seed: int) -> cifar.Part:
        made = records[part.python] = made_up_records(3 + seed % 3, kinds, seed)
        sha1 = hashlib.sha1(made.tobytes()).hexdigest()
        return dataclasses.replace(part, count=len(made), sha1=sha1)

    source = dataclasses.replace(
        source,
        train=tuple(shrink(part, i) for i, part in enumerate(source.train)),
        test=shrink(source.test, 7),
    )
    monkeypatch.setitem(cifar.SOURCES, request.param, source)
    return source, records, tmp_path


def write_all(small, layout: str, **kw) -> Path:
    source, records, root = small
    folder = root / (source.binary_folder if layout == "binary" else source.python_folder)
    for part in (*source.train, source.test):
        if layout == "binary":
            write_binary(folder, part, records[part.python])
        else:
            write_python(folder, part, records[part.python], source.label_keys, **kw)
    return folder


def assert_is(dataset: datasets.Dataset, small) -> None:
    source, records, _ = small
    train = np.concatenate([records[part.python] for part in source.train])
    test, kinds = records[source.test.python], len(source.label_keys)
    for x, y, coarse, r in (
        (dataset.x_train, dataset.y_train, dataset.coarse_train, train),
        (dataset.x_test, dataset.y_test, dataset.coarse_test, test),
    ):
        assert x.dtype == torch.uint8 and y.dtype == torch.int64
        assert np.array_equal(x.numpy().reshape(len(r), 3072), r[:, kinds:])
        assert np.array_equal(y.numpy(), r[:, kinds - 1])  # CIFAR-100: coarse first, then fine
        assert (coarse is None) == (kinds == 1)
        if kinds == 2:
            assert np.array_equal(coarse.numpy(), r[:, 0])


def test_both_layouts_give_the_records(small, monkeypatch):
    source, _, root = small
    monkeypatch.setattr(cifar, "_CHUNK", 2)  # parts of 3 to 5 records end in a smaller chunk
    write_all(small, "binary")
    assert_is(datasets.load(source.name, root), small)
    for part in (root / source.binary_folder).iterdir():
        part.unlink()
    (root / source.binary_folder).rmdir()
    for protocol in (0, 2, 4):
        write_all(small, "python", protocol=protocol)
        assert_is(datasets.load(source.name, root), small)


def test_the_root_defaults_to_the_projects_folder(small, monkeypatch):
    source, _, root = small
    write_all(small, "binary")
    monkeypatch.setenv("NOISYLABELS_DATA", str(root))
    assert_is(datasets.load(source.name), small)


def test_python_2_pickles_under_the_old_and_the_new_numpy_name(small):
    source, _, root = small
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        py = write_all(small, "python", protocol=0)
        for part in (*source.train, source.test):
            text = (py / part.python).read_bytes().replace(old, new)
            (py / part.python).write_bytes(text)
            assert new + b".multiarray\n_reconstruct" in text
        assert_is(datasets.load(source.name, root), small)


def test_nothing_there(small):
    source, _, root = small
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load(source.name, root / "no")
    assert str(caught.value) == (
        f"{source.title} is not in {root / 'no'}: expected the folder {source.binary_folder} or "
        f"{source.python_folder}; mend it with `{DOCTOR} {source.name}`"
    )


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_a_missing_file(small, layout):
    source, _, root = small
    folder = write_all(small, layout)
    path = folder / getattr(source.test, layout)
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load(source.name, root)
    message = str(caught.value)
    assert message.startswith(f"{path} is missing: expected ")
    assert source.test.sha1 in message and f"`{DOCTOR} {source.name}`" in message


def test_a_short_binary_file(small):
    source, records, root = small
    folder = write_all(small, "binary")
    path = folder / source.test.binary
    path.write_bytes(path.read_bytes()[:-1])
    size = records[source.test.python].size
    with pytest.raises(ValueError) as caught:
        datasets.load(source.name, root)
    assert str(caught.value) == (
        f"{path} has {size - 1:,} bytes, expected {size:,}; mend it with `{DOCTOR} {source.name}`"
    )


@pytest.mark.parametrize("layout", ["binary", "python"])
@pytest.mark.parametrize("column", [0, -1], ids=["label", "pixel"])
def test_a_changed_byte(small, layout, column):
    source, records, root = small
    part = source.train[-1]
    records[part.python][1, column] ^= 1
    folder = write_all(small, layout)
    found = hashlib.sha1(records[part.python].tobytes()).hexdigest()
    with pytest.raises(ValueError) as caught:
        datasets.load(source.name, root)
    assert str(caught.value) == (
        f"{folder / getattr(part, layout)} is damaged: its records have SHA-1 {found}, "
        f"expected {part.sha1}; mend it with `{DOCTOR} {source.name}`"
    )


def test_a_whole_python_layout_stands_in_for_a_damaged_binary_one(small):
    source, _, root = small
    folder = write_all(small, "binary")
    write_all(small, "python")
    (folder / source.test.binary).write_bytes(b"short")
    with pytest.warns(UserWarning, match=r"has 5 bytes.* \(read .*-py.* instead\)"):
        assert_is(datasets.load(source.name, root), small)
    (root / source.python_folder / source.test.python).unlink()  # now both are damaged
    with pytest.raises(ValueError, match="has 5 bytes"):
        datasets.load(source.name, root)


class Malice:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused(small):
    source, _, root = small
    folder = write_all(small, "python")
    trap, path = root / "trap", folder / source.train[0].python
    pickle.loads(pickle.dumps(Malice(trap)))
    assert trap.exists()  # so the attack is a real one
    trap.rmdir()
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps({"data": Malice(trap)}, protocol=protocol))
        with pytest.raises(ValueError) as caught:
            datasets.load(source.name, root)
        assert not trap.exists()
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be read (refused, it asks for ")
        assert "asks for posix.mkdir)" in message
        assert f"`{DOCTOR} {source.name}`" in message


CALL = b"cnumpy\ndtype\n"  # a name that is allowed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\x80\x02}", "it is cut off, or no pickle"),
        (b"not a pickle", "it is cut off, or no pickle"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary"),
        (pickle.dumps({}), "it has no 'data'"),
        (pickle.dumps({"data": 3}), "AttributeError"),
        (pickle.dumps({"data": np.zeros((3, 3072))}, 2), "an array is not uint8 in C order"),
        (
            pickle.dumps({"data": np.zeros((3072, 3), np.uint8).T}, 2),
            "an array is not uint8 in C order",
        ),
        (pickle.dumps({"data": np.array([Path])}, 2), "refused, it asks for pathlib"),
        (pickle.dumps({"data": np.array([None])}, 2), "an array is not uint8 in C order"),
        (CALL + b"Nb.", "a function is given a state"),
        (b"cnumpy\nload\n.", "refused, it asks for numpy.load"),
        (b"cbuiltins\neval\n.", "refused, it asks for builtins.eval"),
        (
            b"cnumpy.core.multiarray\n_reconstruct\n)R(I1\n(I2\nt" + CALL + b"(S'u1'\ntRI00\n]tb.",
            "an array does not hold plain bytes",
        ),
        (b"\x80\x02Nr\xff\xff\xff\x0f.", "it numbers a value 268,435,455"),
        (b"Np268435455\n.", "it numbers a value 268,435,455"),
        (b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b"x.", "it is cut off, or no pickle"),
        (b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b"x.", "it is cut off, or no pickle"),
        (b"\x80\x02" + CALL + b"(U\x02u1tR" * 65 + b".", "it calls more than 64 functions"),
        (b"<!DOCTYPE html>", "it is cut off, or no pickle"),
    ],
)
def test_odd_pickles_are_refused(tmp_path, small, content, reason):
    source, _, root = small
    folder = write_all(small, "python")
    (folder / source.train[0].python).write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read .*({reason}).* expected .* images"):
        datasets.load(source.name, root)


@pytest.mark.parametrize("read", [cifar.unpickle, lambda path: imagenet._content(path, 32)])
@pytest.mark.parametrize("claim", [b"\x80\x02Nr\xff\xff\xff\x01.", b"Np33554431\n.",
                                   b"\x80\x05\x96\0\0\0\x20\0\0\0\0."])
def test_a_few_bytes_that_claim_much_memory_get_none(tmp_path, read, claim):
    """The standard reader reserves what a pickle claims before it looks: 500 MB here."""
    (tmp_path / "batch").write_bytes(claim)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            read(tmp_path / "batch")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_python_file_of_the_wrong_shape(small):
    source, records, root = small
    folder = write_all(small, "python")
    part = source.train[0]
    write_python(folder, part, records[part.python][:-1], source.label_keys)
    with pytest.raises(ValueError, match=r"images and labels of shapes \[\(2, 3072\), \(2,\)"):
        datasets.load(source.name, root)
    write_python(folder, part, records[part.python].astype(int) + 200, source.label_keys)
    with pytest.raises(ValueError, match="cannot be read"):
        datasets.load(source.name, root)


# -------------------------------------------------------------------------------- the real CIFAR


def test_cifar10(cifar10):
    assert cifar10.x_train.shape == (50_000, 3, 32, 32) and cifar10.x_train.dtype == torch.uint8
    assert cifar10.x_test.shape == (10_000, 3, 32, 32)
    assert cifar10.x_train.is_contiguous() and cifar10.y_train.is_contiguous()
    assert torch.bincount(cifar10.y_train).tolist() == [5000] * 10
    assert torch.bincount(cifar10.y_test).tolist() == [1000] * 10
    assert (cifar10.num_classes, cifar10.image_size, cifar10.channels) == (10, 32, 3)
    assert (cifar10.pad, cifar10.flip, cifar10.coarse_train) == (4, True, None)
    assert cifar10.mean == (0.4914, 0.4822, 0.4465) and cifar10.std == (0.2023, 0.1994, 0.2010)


def test_cifar100(cifar100):
    assert torch.bincount(cifar100.y_train).tolist() == [500] * 100
    assert torch.bincount(cifar100.y_test).tolist() == [100] * 100
    assert torch.bincount(cifar100.coarse_train).tolist() == [2500] * 20
    assert cifar100.mean == (0.5071, 0.4867, 0.4408) and cifar100.std == (0.2675, 0.2565, 0.2761)
    coarse = torch.tensor(datasets.CIFAR100_COARSE)
    assert torch.bincount(coarse).tolist() == [5] * 20
    assert torch.equal(coarse[cifar100.y_train], cifar100.coarse_train)
    assert torch.equal(coarse[cifar100.y_test], cifar100.coarse_test)
    assert len(cifar100.coarse_names) == 20 and cifar100.num_classes == 100


def test_class_names_are_those_of_the_meta_files(data_root):
    for path, expected in (
        ("cifar-10-batches-py/batches.meta", {"label_names": datasets.CIFAR10_CLASSES}),
        (
            "cifar-100-python/meta",
            {
                "fine_label_names": datasets.CIFAR100_CLASSES,
                "coarse_label_names": datasets.CIFAR100_SUPERCLASSES,
            },
        ),
    ):
        if not (data_root / path).exists():
            pytest.skip(f"no {path} under {data_root}")
        meta = cifar.unpickle(data_root / path)
        for key, names in expected.items():
            assert tuple(n.decode() for n in meta[key]) == names


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_real_layouts_agree(name, data_root, request):
    source = cifar.SOURCES[name]
    for folder in (source.binary_folder, source.python_folder):
        if not (data_root / folder).exists():
            pytest.skip(f"no {folder} under {data_root}")
    dataset = request.getfixturevalue(name)  # binary comes first
    raw = cifar.read_python(source, data_root)
    assert torch.equal(raw.x_train, dataset.x_train) and torch.equal(raw.x_test, dataset.x_test)
    assert torch.equal(raw.labels_train[-1], dataset.y_train)
    assert torch.equal(raw.labels_test[-1], dataset.y_test)
    if name == "cifar100":
        assert torch.equal(raw.labels_train[0], dataset.coarse_train)
        assert torch.equal(raw.labels_test[0], dataset.coarse_test)


def test_torchvision_reads_the_same_test_set(cifar10, data_root):
    if not (data_root / "cifar-10-batches-py").exists():
        pytest.skip(f"no cifar-10-batches-py under {data_root}")
    base = torchvision_guard.import_torchvision().datasets.CIFAR10

    class Unchecked(base):  # its MD5 covers file names that a repacked file need not have
        meta = {**base.meta, "md5": None}

        def _check_integrity(self):
            return True

    theirs = Unchecked(str(data_root), train=False)
    assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), cifar10.x_test.numpy())
    assert theirs.targets == cifar10.y_test.tolist()
    assert tuple(theirs.classes) == datasets.CIFAR10_CLASSES


# ---------------------------------------------------------------------------------------- digits


def test_digits():
    from sklearn.datasets import load_digits

    digits = datasets.load("digits")
    assert digits.x_train.shape == (1297, 1, 8, 8) and digits.x_test.shape == (500, 1, 8, 8)
    assert (digits.pad, digits.flip, digits.image_size, digits.channels) == (1, False, 8, 1)
    assert digits.class_names == tuple("0123456789")
    counts = torch.bincount(digits.y_train).tolist(), torch.bincount(digits.y_test).tolist()
    assert counts == (TRAIN_COUNTS, TEST_COUNTS)
    # the same 1,797 images, each once; 0..16 became 0..255
    pixels = torch.cat([digits.x_train, digits.x_test]).reshape(1797, 64).numpy()
    original = load_digits().data
    table = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    rows = sorted(map(tuple, table[original.astype(int)]))
    assert sorted(map(tuple, pixels.tolist())) == rows
    x = digits.x_train.double() / 255
    assert digits.mean == pytest.approx((float(x.mean()),), abs=1e-12)
    assert digits.std == pytest.approx((float(x.std(correction=0)),), abs=1e-12)
    assert digits.mean[0] == pytest.approx(MEAN, abs=1e-9)
    assert digits.std[0] == pytest.approx(STD, abs=1e-9)


def test_the_digits_split_never_changes():
    digits = datasets.load("digits")
    sha1 = hashlib.sha1(digits.x_test.numpy().tobytes() + digits.y_test.numpy().tobytes())
    assert sha1.hexdigest() == TEST_SHA1
    assert torch.equal(datasets.load("digits").x_train, digits.x_train)


@pytest.mark.parametrize(
    ("given", "near"),
    [("CIFAR-10", "cifar10"), ("cifar_100", "cifar100"), ("digit", "digits"), ("svhn!", None)],
)
def test_an_unknown_name(given, near):
    hint = f"did you mean '{near}'? " if near else ""
    message = f"unknown dataset {given!r}: {hint}allowed: digits, cifar10, cifar100"
    for call in (datasets.load, datasets.download):
        with pytest.raises(ValueError) as caught:
            call(given)
        assert str(caught.value) == message


# ------------------------------------------------------------------------------ download


def fake_torchvision(monkeypatch, make) -> None:
    module = types.SimpleNamespace(datasets=types.SimpleNamespace(CIFAR10=make, CIFAR100=make))
    monkeypatch.setattr(cifar, "import_torchvision", lambda: module)


def test_download_checks_what_it_got(small, monkeypatch):
    source, _, root = small
    calls = []

    def make(folder, **kw):
        calls.append((folder, kw))
        write_all(small, "python")

    fake_torchvision(monkeypatch, make)
    assert datasets.download(source.name, root) == root / source.python_folder
    assert calls == [(str(root), {"train": True, "download": True})]
    assert_is(datasets.load(source.name, root), small)

    def damaged(folder, **kw):
        (root / source.python_folder / source.test.python).write_bytes(b"")

    fake_torchvision(monkeypatch, damaged)
    with pytest.raises(ValueError, match="cannot be read"):
        datasets.download(source.name, root)


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("not found or corrupted")])
def test_download_without_a_network(tmp_path, monkeypatch, error):
    def make(folder, **kw):
        raise error

    fake_torchvision(monkeypatch, make)
    with pytest.raises(ConnectionError) as caught:
        datasets.download("cifar10", tmp_path)
    assert str(caught.value).startswith(
        f"CIFAR-10 could not be downloaded into {tmp_path} ({error}): check the network"
    )


def test_download_of_digits_is_needless():
    with pytest.raises(ValueError, match="digits ships with scikit-learn"):
        datasets.download("digits")


# -------------------------------------------------------------------- the import of torchvision


def test_torchvision_can_be_imported():
    torchvision = torchvision_guard.import_torchvision()
    assert torchvision_guard.import_torchvision() is torchvision is sys.modules["torchvision"]
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    flipped = torchvision.transforms.functional.hflip(image)
    assert np.array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
    assert len(torchvision.datasets.FakeData(size=3, image_size=(3, 8, 8))) == 3


def test_the_guard_declares_the_operators_once_and_tries_again(monkeypatch):
    declared, tries, good = [], [], types.ModuleType("torchvision")

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "FRAGMENT")

        def define(self, schema):
            declared.append(schema.split("(")[0])

    def import_module(name):
        assert name == "torchvision"
        tries.append(name)
        if len(tries) % 2:
            raise RuntimeError("operator torchvision::nms does not exist")
        assert "torchvision.half" not in sys.modules  # what was half imported is gone
        return good

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(torchvision_guard, "_declared", [])
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)  # put back afterwards
    for _ in range(2):
        monkeypatch.setitem(sys.modules, "torchvision.half", types.ModuleType("half"))
        assert torchvision_guard.import_torchvision() is good
    assert declared == ["nms", "qnms"] and len(tries) == 4


@pytest.mark.parametrize(
    ("raised", "expected", "match"),
    [
        (RuntimeError("something else"), RuntimeError, "something else"),
        (
            ModuleNotFoundError("No module named 'torchvision'", name="torchvision"),
            ModuleNotFoundError,
            "torchvision is not installed: .*pip install torchvision",
        ),
        (
            ModuleNotFoundError("No module named 'PIL'", name="PIL"),
            ModuleNotFoundError,
            "No module named 'PIL'",
        ),
    ],
)
def test_other_import_errors_go_through(monkeypatch, raised, expected, match):
    def import_module(name):
        raise raised

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(expected, match=match):
        torchvision_guard.import_torchvision()


# ---------------------------------------------------------------------------------- human labels


@pytest.mark.parametrize(
    ("name", "which", "wrong"),
    [
        ("cifar10", "aggre", 4505),  # 9.01 %
        ("cifar10", "worse", 20104),  # 40.21 %
        ("cifar10", "random1", 8617),  # 17.23 %
        ("cifar10", "random2", 9061),  # 18.12 %
        ("cifar10", "random3", 8820),  # 17.64 %
        ("cifar100", "noisy_fine", 20100),  # 40.20 %
        ("cifar100", "noisy_coarse", 13202),  # 26.40 %
    ],
)
def test_the_rates_of_the_real_human_labels(name, which, wrong, data_root, request):
    if not any((data_root / f).exists() for f in ("cifar_n", f"CIFAR-{name[5:]}_human.pt")):
        pytest.skip(f"no human labels under {data_root}")
    dataset = request.getfixturevalue(name)
    y = datasets.human_labels(name, which, data_root, y_true=dataset.y_train)
    truth = dataset.coarse_train if which == "noisy_coarse" else dataset.y_train
    assert y.dtype == torch.int64 and y.shape == (50_000,)
    assert int((y != truth).sum()) == wrong


def made_up_human(name: str) -> dict[str, np.ndarray]:
    """Labels of one number in each set, so that sets cannot be taken for one another."""
    clean = np.arange(50_000) % (10 if name == "cifar10" else 100)
    keys = datasets.HUMAN_LABELS[name].values()
    made = {key: np.full(50_000, i + 1) for i, key in enumerate(keys)}
    return {"clean_label": clean, **made}


def write_human(root: Path, name: str, form: str, content: dict) -> Path:
    folder = root / "cifar_n" if form != "root.pt" else root
    folder.mkdir(exist_ok=True, parents=True)
    if form == "npz":
        path = folder / f"{name}n.npz"
        np.savez_compressed(path, **content)
    else:
        path = folder / f"CIFAR-{name[5:]}_human.pt"
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy.pt")
    return path


@pytest.mark.parametrize("form", ["npz", "zip.pt", "legacy.pt", "root.pt"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_human_labels_of_both_formats(tmp_path, name, form):
    content = made_up_human(name)
    write_human(tmp_path, name, form, content)
    y_true = torch.from_numpy(content["clean_label"])
    for i, which in enumerate(datasets.HUMAN_LABELS[name]):
        y = datasets.human_labels(name, which, tmp_path, y_true=y_true)
        assert y.dtype == torch.int64 and y.tolist() == [i + 1] * 50_000
    y_true[[0, 1]] = y_true[[1, 0]]
    with pytest.raises(ValueError, match="another order: its clean_label is not y_true; get"):
        datasets.human_labels(name, which, tmp_path, y_true=y_true)
    with pytest.raises(ValueError, match="its clean_label is not y_true"):
        datasets.human_labels(name, which, tmp_path, y_true=y_true[:100])


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.int32, "column", torch.tensor])
def test_human_labels_of_other_types(tmp_path, kind):
    content = made_up_human("cifar10")
    for key, y in content.items():
        if kind == "column":
            content[key] = y.reshape(-1, 1)
        else:
            content[key] = kind(y) if kind is torch.tensor else y.astype(kind)
    write_human(tmp_path, "cifar10", "zip.pt", content)
    assert datasets.human_labels("cifar10", "worse", tmp_path).tolist() == [2] * 50_000


def test_human_labels_saved_by_an_older_numpy(tmp_path):
    path = write_human(tmp_path, "cifar10", "legacy.pt", made_up_human("cifar10"))
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(old)
    assert b"numpy.core.multiarray" in old
    assert datasets.human_labels("cifar10", "random3", tmp_path).tolist() == [5] * 50_000


def test_coarse_human_labels_follow_from_the_fine_ones(tmp_path):
    content = made_up_human("cifar100")
    del content["noisy_coarse_label"]
    content["noisy_label"] = np.arange(50_000) % 100
    write_human(tmp_path, "cifar100", "zip.pt", content)
    y = datasets.human_labels("cifar100", "noisy_coarse", tmp_path)
    assert y.tolist() == list(datasets.CIFAR100_COARSE) * 500


def test_unknown_human_labels(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset with human labels 'digits'.*cifar100"):
        datasets.human_labels("digits", "worse", tmp_path)
    with pytest.raises(ValueError) as caught:
        datasets.human_labels("cifar10", "worst", tmp_path)
    assert str(caught.value) == (
        "unknown human labels of cifar10 'worst': did you mean 'worse'? "
        "allowed: aggre, worse, random1, random2, random3"
    )
    with pytest.raises(ValueError, match="allowed: noisy_fine, noisy_coarse"):
        datasets.human_labels("cifar100", "aggre", tmp_path)


def test_missing_human_labels(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.human_labels("cifar100", "noisy_fine", tmp_path)
    assert str(caught.value) == (
        f"no human labels of cifar100 in {tmp_path}: expected CIFAR-100_human.pt or "
        "cifar_n/cifar100n.npz; get data/CIFAR-100_human.pt from "
        "https://github.com/UCSC-REAL/cifar-10-100n"
    )


@pytest.mark.parametrize("form", ["npz", "zip.pt"])
def test_of_a_damaged_label_file_no_advice_to_load_it_unsafely_is_passed_on(tmp_path, form):
    """Both torch and numpy say how to read such a file without protection."""
    content = made_up_human("cifar10")
    path = write_human(tmp_path, "cifar10", form, content)
    web = b"<!DOCTYPE html><title>cifar-10-100n/data at main</title>"
    damaged = [(web, "it is a web page, not the file itself"), (b"", "it is empty"),
               (b"\x80\x02cposix\nsystem\n(X\x04\0\0\0truetR.", "cut off, damaged or no such")]
    for damage, reason in damaged:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=reason) as caught:
            datasets.human_labels("cifar10", "worse", tmp_path)
        for advice in ("weights_only", "allow_pickle", "arbitrary", "trust"):
            assert advice not in str(caught.value)


@pytest.mark.parametrize("form", ["npz", "zip.pt"])
def test_a_changed_byte_in_human_labels(tmp_path, form):
    path = write_human(tmp_path, "cifar10", form, made_up_human("cifar10"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*get data/CIFAR-10_human"):
        datasets.human_labels("cifar10", "worse", tmp_path)


@pytest.mark.parametrize("form", ["npz", "zip.pt", "legacy.pt"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_short_human_labels(tmp_path, form, keep):
    path = write_human(tmp_path, "cifar10", form, made_up_human("cifar10"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*expected 50,000 labels"):
        datasets.human_labels("cifar10", "worse", tmp_path)


@pytest.mark.parametrize(
    ("key", "labels", "reason"),
    [
        ("worse_label", None, "it has no worse_label, only clean_label, aggre_label"),
        ("clean_label", None, "it has no clean_label"),
        ("worse_label", np.zeros(49_999, int), "worse_label must hold 50,000 labels, got 49,999"),
        ("clean_label", np.zeros(3, int), "clean_label must hold 50,000 labels, got 3"),
        ("worse_label", np.full(50_000, 10), r"worse_label must lie in 0..9, got 10..10"),
        ("worse_label", np.full(50_000, -1), r"worse_label must lie in 0..9, got -1..-1"),
        ("worse_label", np.zeros(50_000), "worse_label holds float64, not whole numbers"),
    ],
)
def test_wrong_human_labels(tmp_path, key, labels, reason):
    content = made_up_human("cifar10")
    content[key] = labels
    if labels is None:
        del content[key]
    write_human(tmp_path, "cifar10", "npz", content)
    with pytest.raises(ValueError, match=reason):
        datasets.human_labels("cifar10", "worse", tmp_path)


@pytest.mark.parametrize("form", ["npz", "zip.pt", "legacy.pt"])
def test_malicious_human_labels_are_refused(tmp_path, form):
    trap = tmp_path / "trap"
    content = made_up_human("cifar10")
    malice = Malice(trap)
    content["worse_label"] = np.array([malice], object) if form == "npz" else malice
    write_human(tmp_path, "cifar10", form, content)
    trap.exists() and trap.rmdir()
    with pytest.raises(ValueError, match="cannot be read") as caught:
        datasets.human_labels("cifar10", "worse", tmp_path)
    assert not trap.exists() and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ split and subset


def labels_of(counts: list[int], seed: int = 0) -> torch.Tensor:
    y = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.RandomState(seed).permutation(y))


@pytest.mark.parametrize("trusted", [0, 1, 7])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_split(trusted, fraction):
    y = labels_of([50, 60, 70])
    parts = datasets.split(y, 3, trusted_per_class=trusted, val_fraction=fraction, seed=3)
    assert len(parts.trusted) == 3 * trusted
    assert torch.bincount(y[parts.trusted], minlength=3).tolist() == [trusted] * 3
    assert len(parts.val) == round(fraction * (180 - 3 * trusted))
    for part in (parts.train, parts.trusted, parts.val):
        assert part.dtype == torch.int64 and torch.equal(part, part.sort().values)
    together = torch.cat([parts.train, parts.trusted, parts.val]).sort().values
    assert torch.equal(together, torch.arange(180))


def test_split_is_fixed_by_its_seed():
    y = labels_of([50, 60, 70])
    one, same, other = (
        datasets.split(y, 3, trusted_per_class=5, val_fraction=0.2, seed=s) for s in (0, 0, 1)
    )
    for part in ("train", "trusted", "val"):
        assert torch.equal(getattr(one, part), getattr(same, part))
        assert not torch.equal(getattr(one, part), getattr(other, part))
    more = datasets.split(y, 3, trusted_per_class=9, seed=0)
    assert set(one.trusted.tolist()) < set(more.trusted.tolist())  # more only adds
    assert one.trusted.tolist() == SPLIT_TRUSTED
    assert one.val[:10].tolist() == SPLIT_VAL


def test_split_leaves_the_global_generators_alone():
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    datasets.split(labels_of([20, 20]), 2, trusted_per_class=2, val_fraction=0.1)
    datasets.subset(datasets.load("digits"), 100)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"trusted_per_class": -1}, "trusted_per_class must be 0 or more, got -1"),
        ({"trusted_per_class": 5}, "trusted_per_class 5 is too many: class 1 has only 4 samples"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.1}, r"val_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": float("nan")}, r"val_fraction must be in \[0, 1\), got nan"),
        ({"val_fraction": 0.99}, "nothing is left to train on: 10 samples, 0 of them trusted, 10"),
        ({"num_classes": 3, "trusted_per_class": 1}, "class 2 has only 0 samples"),
        ({"num_classes": 1}, r"y_true must lie in 0..0, got 0..1"),
    ],
)
def test_split_refuses(kw, message):
    with pytest.raises(ValueError, match=message):
        datasets.split(labels_of([6, 4]), **{"num_classes": 2, **kw})


def test_split_with_everything_trusted_is_refused():
    with pytest.raises(ValueError, match="nothing is left to train on: 8 samples, 8 of them"):
        datasets.split(labels_of([4, 4]), 2, trusted_per_class=4)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(3), "y_true must be int64"),
        (torch.zeros(3, 1, dtype=torch.int64), r"y_true must be int64 \(N,\), got torch.int64"),
        (torch.zeros(0, dtype=torch.int64), "y_true is empty"),
    ],
)
def test_split_refuses_labels(y, message):
    with pytest.raises(ValueError, match=message):
        datasets.split(y, 2)


def test_subset_of_digits():
    digits = datasets.load("digits")
    small, index = datasets.subset(digits, 400, seed=5)
    assert len(small.x_train) == len(index) == 400 and index.dtype == torch.int64
    assert torch.equal(index, index.unique())  # sorted, each once
    assert torch.equal(small.x_train, digits.x_train[index])
    assert torch.equal(small.y_train, digits.y_train[index])
    assert small.x_test is digits.x_test and small.mean == digits.mean
    assert small.coarse_train is None and small.name == "digits"
    shares = torch.bincount(digits.y_train) * 400 / 1297
    assert ((torch.bincount(small.y_train) - shares).abs() < 1).all()
    assert torch.equal(datasets.subset(digits, 400, seed=5)[1], index)
    assert not torch.equal(datasets.subset(digits, 400, seed=6)[1], index)


def test_the_largest_and_the_smallest_subset():
    digits = datasets.load("digits")
    for many in (1297, 5000):
        whole, index = datasets.subset(digits, many)
        assert torch.equal(index, torch.arange(1297))
        assert torch.equal(whole.x_train, digits.x_train)
    few, _ = datasets.subset(digits, 10)
    assert few.y_train.sort().values.tolist() == list(range(10))
    with pytest.raises(ValueError, match="max_samples must be at least 10, one per class of digi"):
        datasets.subset(digits, 9)


def test_subset_of_cifar(cifar10, cifar100):
    small, index = datasets.subset(cifar10, 10_000, seed=1)
    assert torch.bincount(small.y_train).tolist() == [1000] * 10
    assert torch.equal(small.x_train[-1], cifar10.x_train[index[-1]])
    small, index = datasets.subset(cifar100, 1000)
    assert torch.bincount(small.y_train).tolist() == [10] * 100
    assert torch.equal(small.coarse_train, cifar100.coarse_train[index])


def test_shares_add_up():
    for counts in ([1, 1, 1], [5, 0, 3], [178, 182, 177, 183], [10**9, 7]):
        for total in (0, 1, 2, 3, 7):
            shares = splits.shares(np.array(counts), total)
            exact = np.array(counts) * total / sum(counts)
            assert shares.sum() == total and (abs(shares - exact) < 1).all()
    assert splits.shares(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]  # ties: the lower class


# --------------------------------------------------------------------------- your own dataset


def own(**kw) -> datasets.Dataset:
    x, y = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    parts = dict(name="own", x_train=x, y_train=y, x_test=x, y_test=y, class_names=("a", "b"))
    parts |= dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    return datasets.Dataset(**{**parts, **kw})


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"x_train": torch.zeros(4, 3, 8, 8)}, "x_train must be square uint8 images"),
        ({"x_test": torch.zeros(4, 3, 8, 9, dtype=torch.uint8)}, "x_test must be square"),
        ({"x_test": torch.zeros(4, 8, 8, dtype=torch.uint8)}, "x_test must be square"),
        ({"x_test": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "images must have one shape"),
        ({"y_train": torch.tensor([0, 1])}, "y_train must hold 4 labels, got 2"),
        ({"y_test": torch.tensor([0, 1, 2, 0])}, "y_test must lie in 0..1, got 0..2"),
        ({"y_test": torch.tensor([0, 1, 1, 0]).int()}, "y_test must be int64"),
        ({"mean": (0.5,)}, r"std are needed for each of 3 channel\(s\)"),
        ({"std": (0.5, 0.5, 0.0)}, "a positive std"),
        ({"coarse_train": torch.zeros(4, dtype=torch.int64)}, "coarse_train must lie in 0..-1"),
    ],
)
def test_a_dataset_whose_parts_do_not_fit(kw, message):
    assert own().num_classes == 2
    with pytest.raises(ValueError, match=message):
        own(**kw)
