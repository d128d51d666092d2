"""What pages keep of photographs: the same arrays whichever way, limits, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from noisylabels.data import photographs

ROOT = Path(__file__).resolve().parents[1]


def made():
    return {"share": 0.25, "names": ["cat", "dog"], "maps": torch.arange(6.0).view(2, 3).half(),
            "images": np.full((2, 3, 4, 4), 7, np.uint8), "wrong": torch.tensor([True, False])}


def never():
    raise AssertionError("computed although it is kept")


def test_what_is_recorded_comes_back_as_it_was_made(tmp_path):
    here = photographs.get("p", "n", made, "here", root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    kept = photographs.get("p", "n", made, "record", root=tmp_path)
    read = photographs.get("p", "n", never, root=tmp_path)
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["n.npz"]
    for found in (here, kept, read):
        assert found["share"] == 0.25 and found["names"].tolist() == ["cat", "dog"]
        assert found["maps"].dtype == np.float16
        assert found["maps"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["images"].shape == (2, 3, 4, 4) and found["wrong"].dtype == bool
    first = (tmp_path / "p" / "n.npz").read_bytes()
    photographs.get("p", "n", made, "record", root=tmp_path)
    assert (tmp_path / "p" / "n.npz").read_bytes() == first  # the same bytes for the same arrays


def test_refused(tmp_path):
    with pytest.raises(ValueError, match="'new'; allowed: recorded, here, record"):
        photographs.get("p", "n", made, "new", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="page p -p photographs record` makes it"):
        photographs.get("p", "n", made, root=tmp_path)
    with pytest.raises(ValueError, match="'x' is no array of numbers"):
        photographs.get("p", "n", lambda: {"x": [None]}, "here", root=tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "n.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"n\.npz is damaged"):
        photographs.get("p", "n", made, root=tmp_path)


def test_limits_leave_what_was_kept_before(tmp_path):
    photographs.get("p", "n", made, "record", root=tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, 999_000, np.uint8)
    with pytest.raises(ValueError, match="p would keep .* at most 1,000,000 a page"):
        photographs.get("p", "big", lambda: {"x": noise}, "record", root=tmp_path)
    photographs.get("q", "big", lambda: {"x": noise}, "record", root=tmp_path)  # another page
    with pytest.raises(ValueError, match="81 thumbnails would be kept"):
        photographs.get("q", "n", lambda: {"images_b": np.zeros((79, 3, 2, 2), np.uint8)},
                        "record", root=tmp_path)
    photographs.get("q", "n", lambda: {"images_b": np.zeros((78, 3, 2, 2), np.uint8)},
                    "record", root=tmp_path)
    assert photographs.get("p", "n", never, root=tmp_path)["share"] == 0.25
    assert len(list(tmp_path.rglob("*"))) == 5


def test_what_the_project_keeps_is_within_its_limits():
    pages = [p for p in (ROOT / "data" / "photographs").iterdir() if p.is_dir()]
    assert {p.name for p in pages} <= {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    count = 0
    for page in pages:
        files = list(page.iterdir())
        assert sum(f.stat().st_size for f in files) <= 1_000_000
        for f in files:
            with np.load(f, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            count += photographs.thumbnails(arrays)
            pixels = [a for a in arrays.values() if a.ndim == 4 and a.dtype == np.uint8]
            assert sum(len(a) for a in pixels) == photographs.thumbnails(arrays), f
    assert count <= 80


def test_a_page_that_keeps_photographs_has_the_parameter():
    for page in (ROOT / "data" / "photographs").iterdir():
        if page.is_dir():
            cells = json.loads((ROOT / "notebooks" / f"{page.name}.ipynb").read_text())["cells"]
            text = next("".join(c["source"]) for c in cells
                        if "parameters" in c["metadata"].get("tags", []))
            assert 'photographs: str = "recorded"' in text, page.name
