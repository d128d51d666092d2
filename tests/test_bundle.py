"""Bundles: what goes in comes out, and nothing else is ever let in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile

import pytest
import torch

from conftest import checkpoint
from noisylabels import paths
from noisylabels.reproduce import bundle
from noisylabels.reproduce.bundle import BundleError
from noisylabels.training import recorder, runs
from noisylabels.training.runs import Setting, StoreError

ROWS = [{"stage": "train", "epoch": e, "test": t, "loss": 1.0} for e, t in [(1, 0.5), (2, 0.75)]]
ENTRIES = {"runs/digits/symmetric-0.40/gce/smoke-0-12345678/run.json": b"{}"}


def make(seed: int = 0, **changes) -> Setting:
    values = dict(method="gce", dataset="digits", noise="symmetric", rate=0.4, budget="smoke",
                  options={"epochs": 99}, split_seed=seed, noise_seed=seed, init_seed=seed)
    return Setting(**{**values, **changes})


def record(seed: int = 0, status: str = "finished", rows=ROWS, **more) -> Setting:
    runs.save(make(seed), {"status": status, "realised_rate": 0.36, **more}, rows)
    return make(seed)


def begin(seed: int = 0, epochs: int = 3, size: int = 10, blocks: int = 1) -> Setting:
    folder = paths.cache_dir() / "checkpoints" / make(seed).key
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(blocks):
        state = torch.arange(size, dtype=torch.float32) + k
        last = k == blocks - 1
        held = checkpoint(epochs - k if last else 1, 99 if last else 1, k, f"s{k}", state=[state])
        torch.save(held, folder / f"block-{k}.pt")
    return make(seed)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """at("a") makes that folder the project's home."""

    def go(name: str):
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        monkeypatch.setenv("NOISYLABELS_HOME", str(home))
        return home

    monkeypatch.setattr(bundle.lab, "commit", lambda: "abc")
    go("a")
    return go


def tree(home) -> dict[str, bytes]:
    """All files of a home but locks."""
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in sorted(home.rglob("*"))
            if p.is_file() and "locks" not in p.parts}  # fmt: skip


# ---------------------------------------------------------------------------------- there and back


def test_runs_and_checkpoints_come_out_as_they_went_in(at, tmp_path):
    home = at("a")
    settings = [record(0), record(1, "failed", why="nan"), begin(2, blocks=2), make(3)]
    runs.save(make(4), {"status": "finished"}, ROWS, {"p": torch.ones(4).numpy()})
    before = tree(home)
    packed = bundle.pack(tmp_path / "x.tar", [*settings, make(4)])
    assert packed == bundle.Packed(3, 1, []) and tree(home) == before
    in_memory = bundle.packed([*settings, make(4)])

    other = at("b")
    dry = bundle.unpack(tmp_path / "x.tar", dry_run=True)
    assert tree(other) == {}
    taken = bundle.unpack(tmp_path / "x.tar")
    assert taken == dry and tree(other) == before
    assert len(taken.runs) == 3 and taken.runs[1].endswith("seed 1 (failed)")
    assert taken.checkpoints == [f"{make(2)}: 3 epochs done"]
    assert runs.lookup(make(0)).info["realised_rate"] == 0.36

    again = bundle.unpack(in_memory)
    assert again.runs == again.refused == again.checkpoints == [] and tree(other) == before
    assert again.same == [str(make(k)) for k in (0, 1, 4)]
    assert again.not_needed == [f"{make(2)}: its checkpoint here has 3 epochs, this 3"]


def test_a_bundle_is_a_plain_tar_that_says_what_is_in_it(at, tmp_path):
    bundle.pack(tmp_path / "x.tar", [record()])
    with tarfile.open(tmp_path / "x.tar") as tar:
        names = tar.getnames()
        manifest = json.loads(tar.extractfile("manifest.json").read())
        folder = f"runs/digits/symmetric-0.40/gce/smoke-0-{make().key}"
        assert names == ["manifest.json", f"{folder}/epochs.csv", f"{folder}/run.json"]
        content = tar.extractfile(names[1]).read()
    assert manifest["format"] == 2 and manifest["about"]["commit"] == "abc"
    assert manifest["files"][0] == {
        "path": names[1], "size": len(content), "sha256": hashlib.sha256(content).hexdigest()
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["x.tar"]


def test_nothing_to_pack_makes_no_file(at, tmp_path):
    assert bundle.pack(tmp_path / "x.tar", [make()]) == bundle.Packed()
    assert not (tmp_path / "x.tar").exists() and bundle.packed([make()]) == b""


def test_a_bundle_of_before_is_taken_in_and_one_of_several_parts_is_named(at, tmp_path):
    """Format 1 listed pieces of files, since it could be cut."""
    record(0), begin(1)
    bundle.pack(tmp_path / "x.tar", [make(0), make(1)])
    with tarfile.open(tmp_path / "x.tar") as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar}
    about = json.loads(content.pop("manifest.json"))["about"]
    before = tree(at("a"))
    other = at("b")
    for n in (2, 1):
        file = tar_of(tmp_path / "old.tar", [*content.items()], about=about, parts=n)
        if n == 2:
            with pytest.raises(BundleError, match="old.tar .*one of 2 parts"):
                bundle.unpack(file)
    taken = bundle.unpack(file)
    assert (len(taken.runs), len(taken.checkpoints)) == (1, 1) and tree(other) == before


def test_an_earlier_bundle_of_that_name_gives_way_and_nothing_else_does(at, tmp_path):
    bundle.pack(tmp_path / "x.tar", [record(0), begin(1)])
    assert bundle.pack(tmp_path / "x.tar", [make(0), make(1)], checkpoints=False) == (
        bundle.Packed(1, 0))
    (tmp_path / "y.tar").write_text("a letter")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "x.tar", "y.tar"}
    with pytest.raises(ValueError, match="y.tar is there and is no bundle"):
        bundle.pack(tmp_path / "y.tar", [make(0)])
    assert bundle.unpack(tmp_path / "x.tar").same == [str(make(0))]


def test_a_damaged_checkpoint_is_left_out_and_a_damaged_run_stops_the_packing(at, tmp_path):
    folder = paths.cache_dir() / "checkpoints" / begin(1).key
    (folder / "block-0.pt").write_bytes(b"nonsense")
    packed = bundle.pack(tmp_path / "x.tar", [record(0), make(1)])
    assert packed.runs == 1 and "block-0.pt cannot be read (it is cut, or no" in packed.left_out[0]
    (runs.lookup(make(0)).folder / "epochs.csv").unlink()
    with pytest.raises(StoreError, match="is damaged"):
        bundle.pack(tmp_path / "x.tar", [make(0)])


def test_a_run_that_ends_while_it_is_packed_is_no_trouble(at, tmp_path, monkeypatch):
    begin(1)

    def gone(*_, **__):
        raise bundle.shutil.Error([("block-0.pt", "", "No such file or directory")])

    monkeypatch.setattr(bundle.shutil, "copytree", gone)
    packed = bundle.pack(tmp_path / "x.tar", [make(1)])
    assert packed.checkpoints == 0 and len(packed.left_out) == 1
    assert not (tmp_path / "x.tar").exists()


def test_a_full_disk_leaves_nothing(at, tmp_path, monkeypatch):
    settings = [record(0)]
    monkeypatch.setattr(bundle.os, "replace", lambda *_: (_ for _ in ()).throw(
        OSError(28, "No space left on device")))  # fmt: skip
    with pytest.raises(StoreError, match="No space left on device; free the disk and pack again"):
        bundle.pack(tmp_path / "x.tar", settings)
    assert [p for p in tmp_path.iterdir() if p.is_file()] == []
    monkeypatch.undo()


# ----------------------------------------------------------------------------- what wins over what


@pytest.fixture
def carried(at, tmp_path):
    """carried(f) packs what f() makes in another home, and comes back to an empty one."""

    def go(*makers):
        at("a")
        settings = [m() for m in makers]
        bundle.pack(tmp_path / "x.tar", settings)
        return tmp_path / "x.tar", at("b")

    return go


def test_a_finished_run_is_never_replaced_by_a_different_one(carried):
    file, home = carried(lambda: record(0), lambda: record(1))
    other = record(0, rows=ROWS[:1])
    before = tree(home)
    taken = bundle.unpack(file)
    assert taken.refused == [str(other)] and taken.runs == [str(make(1))]
    assert {k: v for k, v in tree(home).items() if k in before} == before
    assert len(runs.lookup(other).epochs["test"]) == 1


def test_signals_count_only_where_both_have_them(carried):
    file, _ = carried(lambda: runs.save(make(), {"status": "finished"}, ROWS,
                                         {"p": torch.ones(3).numpy()}).setting)  # fmt: skip
    runs.save(make(), {"status": "finished"}, ROWS)
    assert bundle.unpack(file).same == [str(make())]


@pytest.mark.parametrize("there, here, ends", [
    ("finished", "failed", "taken"), ("failed", "finished", "kept"), ("failed", "failed", "kept"),
])  # fmt: skip
def test_finished_goes_before_failed(carried, there, here, ends):
    file, home = carried(lambda: record(0, there, why="there"))
    record(0, here, why="here")
    taken = bundle.unpack(file)
    assert runs.lookup(make()).info["why"] == ("there" if ends == "taken" else "here")
    assert (taken.runs, taken.not_needed) == (
        ([str(make())], []) if ends == "taken" else ([], [f"{make()}: failed there, {here} here"]))
    assert not [p for p in home.rglob("*") if p.name.endswith((".old", ".tmp"))]


@pytest.mark.parametrize("epochs, taken", [(2, True), (3, False), (4, False), (None, True)])
def test_a_checkpoint_is_taken_only_when_it_is_further(carried, epochs, taken):
    file, _ = carried(lambda: begin(0, epochs=3))
    folder = paths.cache_dir() / "checkpoints" / make().key
    if epochs is None:  # one that cannot be read gives way
        begin(0)
        (folder / "block-0.pt").write_bytes(b"")
    else:
        begin(0, epochs=epochs, blocks=2)
    assert bool(bundle.unpack(file).checkpoints) == taken
    assert recorder.epochs_in(folder) == (3 if taken else epochs)
    assert len(list(folder.iterdir())) == (1 if taken else 2)  # never a mixture of both


def test_no_checkpoint_beside_a_recorded_run(carried):
    file, _ = carried(lambda: begin(0), lambda: record(1))
    record(0), begin(1)
    taken = bundle.unpack(file)
    assert taken.checkpoints == [] and "it is recorded here" in taken.not_needed[0]
    assert list((paths.cache_dir() / "checkpoints").iterdir()) == []  # of 1: it is recorded now


def test_a_failed_run_does_not_cost_a_checkpoint_here(carried):
    file, home = carried(lambda: record(0, "failed", why="nan"), lambda: record(1, "failed"))
    begin(0, epochs=3)
    folder = paths.cache_dir() / "checkpoints" / make(1).key
    folder.mkdir()
    (folder / "block-0.tmp").write_text("of no use")
    before = tree(home)
    dry = bundle.unpack(file, dry_run=True)
    taken = bundle.unpack(file)
    assert taken == dry and taken.runs == [f"{make(1)} (failed)"]
    assert taken.not_needed == [f"{make(0)}: failed there, begun here"]
    assert runs.lookup(make(0)) is None and before.items() <= tree(home).items()


def test_what_is_being_trained_here_is_left_alone(carried):
    file, home = carried(lambda: begin(0), lambda: record(1))
    with runs.lock(make(0)):
        taken = bundle.unpack(file)
    assert taken.not_needed == [f"{make(0)}: it is being trained here right now"]
    assert taken.runs == [str(make(1))]


# ------------------------------------------------------------------------------ what is not let in


def tar_of(path, members, manifest=True, **changes):
    """A tar file: (name, content | TarInfo) pairs behind a manifest of them, sealed."""
    files = {n: c for n, c in members if isinstance(c, bytes)}
    about = {
        "kind": bundle.KIND, "format": 1, "about": {"checkpoints": {}}, "part": 1, "parts": 1,
        "files": [{"path": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()}
                  for n, c in files.items()],
        "pieces": [{"name": n, "path": n, "begin": 0, "size": len(c)} for n, c in files.items()],
        **changes}  # fmt: skip
    about.setdefault("seal", bundle.checksum(about))
    with tarfile.open(path, "w") as tar:
        if manifest:
            members = [("manifest.json", json.dumps(about).encode()), *members]
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def kind_of(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


RUN = "runs/digits/symmetric-0.40/gce/smoke-0-12345678"
BAD_NAMES = ["../evil", "/etc/evil", "runs/../../evil/x/run.json", "runs/a/b/c/../run.json",
             "runs/a/b/c/.d/run.json", f"{RUN}/other.txt", f"{RUN}/run.json/x", "evil",
             "checkpoints/12345678/block-x.pt", "checkpoints/nothex!!/block-0.pt",
             "checkpoints/12345678/../block-0.pt", f"{RUN}/run.json\n", "locks/12345678.lock"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_have_no_place_in_a_bundle(at, tmp_path, name):
    home = at("b")
    with pytest.raises(BundleError, match="has no place in|no bundle"):
        bundle.unpack(tar_of(tmp_path / "x.tar", [(name, b"evil")]))
    # also when only the list of files names it, and the member's own name is a good one
    entry = {"path": name, "size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    piece = {"name": f"{RUN}/run.json", "path": name, "begin": 0, "size": 4}
    sly = tar_of(tmp_path / "y.tar", [(f"{RUN}/run.json", b"evil")], files=[entry], pieces=[piece])
    with pytest.raises(BundleError, match="missing, cut, not listed"):
        bundle.unpack(sly)
    assert tree(home) == {} and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
                                  tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
def test_links_and_devices_are_refused(at, tmp_path, kind):
    home = at("b")
    link = kind_of(f"{RUN}/run.json", kind, "/etc/passwd")
    with pytest.raises(BundleError, match="which has no place in a bundle"):
        bundle.unpack(tar_of(tmp_path / "x.tar", [link]))
    assert tree(home) == {}


def test_foreign_files_are_refused(at, tmp_path):
    home = at("b")
    plain = tar_of(tmp_path / "plain.tar", [("letter.txt", b"hello")], manifest=False)
    empty = tar_of(tmp_path / "empty.tar", [], manifest=False)
    twice = tar_of(tmp_path / "twice.tar", [*ENTRIES.items(), *ENTRIES.items()])
    (tmp_path / "text.tar").write_text("no tar at all")
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    no_json = tar_of(tmp_path / "n.tar", [("manifest.json", b"{")], manifest=False)
    deep = tar_of(tmp_path / "d.tar", [("manifest.json", b"[" * 200_000)], manifest=False)
    a_list = tar_of(tmp_path / "l.tar", [("manifest.json", b"[]")], manifest=False)
    for file, words in (
            (plain, "does not begin with manifest.json"), (twice, "has no place"),
            (empty, "does not begin with manifest.json"),
            (tmp_path / "text.tar", "damaged, or no"), (packed, "damaged, or no bundle"),
            (no_json, "damaged, or no bundle"), (deep, "damaged, or no bundle"),
            (a_list, "is of something else")):
        with pytest.raises(BundleError, match=words):
            bundle.unpack(file)
    with pytest.raises(FileNotFoundError):
        bundle.unpack(tmp_path / "absent.tar")
    assert tree(home) == {}


@pytest.mark.parametrize("changes, words", [
    (dict(kind="other"), "is of something else"),
    (dict(format=3), "has bundle format 3, known are 1 and 2"),
    (dict(format=None), "has bundle format None"),
    (dict(seal="0"), "its manifest has another checksum"),
    (dict(parts=0), "one of 0 parts"), (dict(parts=10**9), "one of 1000000000 parts"),
    (dict(parts="1"), "one of '1' parts"),
    (dict(files=None), "cannot be understood"), (dict(files=[1]), "cannot be understood"),
    (dict(files=[{"path": f"{RUN}/run.json"}]), "cannot be understood"),
    (dict(about=[]), "cannot be understood"), (dict(about={}), "cannot be understood"),
    (dict(about={"checkpoints": 3}), "cannot be understood"),
    (dict(files=[{"path": [], "size": 2, "sha256": ""}]), "cannot be understood"),
    (dict(files=[{"path": f"{RUN}/run.json", "size": -1, "sha256": ""}]), "another checksum"),
    (dict(files=[]), "not listed"),
    (dict(files=[{"path": f"{RUN}/run.json", "size": 2, "sha256": "0"}]), "another checksum"),
    (dict(files=[{"path": f"{RUN}/epochs.csv", "size": 2, "sha256": "0"}]), "epochs.csv' is mis"),
])  # fmt: skip
def test_a_manifest_must_be_right_in_everything(at, tmp_path, changes, words):
    home = at("b")
    file = tar_of(tmp_path / "x.tar", [(f"{RUN}/run.json", b"{}")], **changes)
    with pytest.raises(BundleError, match=words) as said:
        bundle.unpack(file)
    assert tree(home) == {} and "object" not in str(said.value)


def test_a_flipped_byte_anywhere_that_counts_is_noticed(at, tmp_path):
    file = tmp_path / "x.tar"
    bundle.pack(file, [record(0), begin(1)])
    good = file.read_bytes()
    with tarfile.open(file) as tar:
        spans = [(m.offset, m.offset_data + m.size) for m in tar]
    home = at("b")
    for begin_, end in spans:
        # every byte of a header's name, size and checksum, and every 97th of the content
        for k in [*range(begin_, begin_ + 160, 7), *range(begin_ + 512, end, 97), end - 1]:
            bad = bytearray(good)
            bad[k] ^= 0x10
            file.write_bytes(bad)
            with pytest.raises(BundleError):
                bundle.unpack(file)
    for size in (0, 100, 511, 600, len(good) // 2, spans[-1][1] - 1):
        file.write_bytes(good[:size])
        with pytest.raises(BundleError):
            bundle.unpack(file)
    assert tree(home) == {}
    file.write_bytes(good)
    assert len(bundle.unpack(file).runs) == 1


def bundle_of(tmp_path, run: bytes | None = None, key: str | None = None, about=None, pt=b""):
    """A well-formed bundle that holds one run of ours, or one checkpoint, tampered with."""
    if run is not None:
        folder = f"runs/{make().path.as_posix()}"
        return tar_of(tmp_path / "x.tar", [(f"{folder}/run.json", run),
                                           (f"{folder}/epochs.csv", b"stage,test\ntrain,0.5\n")])
    return tar_of(tmp_path / "x.tar", [(f"checkpoints/{key}/block-0.pt", pt)],
                  about={"checkpoints": about})


def test_runs_that_are_not_what_they_say_are_refused(at, tmp_path):
    home = at("b")
    facts = {"format": 1, "setting": make().as_dict(), "status": "finished", "epochs": 1}
    for bad, words in (
            (b"{", "cannot be read"), (b'{"setting": {"nonsense": 1}}', "cannot be read"),
            (json.dumps({**facts, "setting": make(1).as_dict()}).encode(), "of another setting"),
            (json.dumps({**facts, "format": 9}).encode(), "of format 9; known is 1")):
        with pytest.raises(BundleError, match=words):
            bundle.unpack(bundle_of(tmp_path, run=bad))
    only = tar_of(tmp_path / "z.tar", [(f"runs/{make().path.as_posix()}/epochs.csv", b"test\n1")])
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.unpack(only)
    assert tree(home) == {}
    good = bundle_of(tmp_path, run=json.dumps(facts).encode())
    assert bundle.unpack(good).runs == [str(make())]


def test_checkpoints_that_are_not_what_they_say_are_refused(at, tmp_path):
    home = at("b")
    held = io.BytesIO()
    torch.save(checkpoint(2, 9), held)
    s, good = make(), {"setting": make().as_dict(), "epochs": 2}
    evil = io.BytesIO()
    torch.save({"rows": os.system}, evil)  # code, not data: refused unread
    for key, about, pt, words in (
            (s.key, {}, held.getvalue(), "cannot be read"),
            (s.key, {s.key: 3}, held.getvalue(), "cannot be read"),
            (s.key, {s.key: good}, b"no tensors", "cannot be read"),
            (s.key, {s.key: good}, evil.getvalue(), "cannot be read"),
            (s.key, {s.key: {**good, "epochs": 3}}, held.getvalue(), "of another setting"),
            ("12345678", {"12345678": good}, held.getvalue(), "of another setting")):
        with pytest.raises(BundleError, match=words) as said:
            bundle.unpack(bundle_of(tmp_path, key=key, about=about, pt=pt))
        assert not re.search("KeyError|TypeError|weights_only|not subscriptable", str(said.value))
    assert tree(home) == {}
    taken = bundle.unpack(bundle_of(tmp_path, key=s.key, about={s.key: good}, pt=held.getvalue()))
    assert taken.checkpoints == [f"{s}: 2 epochs done"]


def test_a_store_that_cannot_be_written_is_a_clear_error(at, tmp_path, monkeypatch):
    file = tmp_path / "x.tar"
    bundle.pack(file, [record(0)])
    home = at("b")
    (home / "data").write_text("in the way")
    with pytest.raises(StoreError, match="no folder .*runs: Not a directory; make its place"):
        bundle.unpack(file)
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(StoreError, match="no folder for the bundle"):
        bundle.pack(tmp_path / "folder" / "x.tar", [])

    at("c")
    monkeypatch.setattr(bundle.os, "rename", lambda *_: (_ for _ in ()).throw(
        OSError(28, "No space left on device")))  # fmt: skip
    with pytest.raises(StoreError, match="No space left on device; free the"):
        bundle.unpack(file)
