"""Records are checked on every way in: each test is named by the fault that it stands for.

A, B1 to B18: entries of the list of faults that were found by attack and by use. A test of a fault
holds the right answer; the cases of its parameters are the fault's sisters.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPO, checkpoint
from noisylabels import __main__ as cli
from noisylabels import bench, lab, paths, wording
from noisylabels.bench import report as bench_report
from noisylabels.commands import common, train
from noisylabels.data import datasets
from noisylabels.evidence import ledger, ledger_page, published, tables
from noisylabels.lab import cost
from noisylabels.reproduce import bundle, planning
from noisylabels.reproduce import report as reproduce_report
from noisylabels.training import engine, leftovers, provenance, recorder, runs, schema
from noisylabels.training.runs import Setting, StoreError

INFO = {"status": "finished", "realised_rate": 0.36, "seconds": 9.0, "seconds_per_epoch": 3.0,
        "hardware": "abacus", "versions": {"torch": "2"}, "samples": 4, "validation": 0,
        "trusted": 0, "commit": "abc", "date": "today"}
TABLES = REPO / "data" / "published"
KEPT = {"index": np.array([7, 3, 9, 1], np.int32), "given": np.array([0, 1, 2, 3], np.int16),
        "wrong": np.array([0, 1, 0, 0], bool),
        "p_clean": np.array([1 - 2e-7, 0.1, 1 - 1e-7, 1 - 3e-7], np.float32)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    monkeypatch.delenv("NOISYLABELS_DATA", raising=False)
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(home, capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def run(*words) -> tuple[int, str, str]:
        code = cli.main([str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def say(call):
    """The same, the output without its breaks of lines."""

    def run(*words) -> tuple[int, str, str]:
        code, out, err = call(*words)
        return code, " ".join(out.split()), err

    return run


def make(seed: int = 0, **changes) -> Setting:
    values = dict(method="gce", dataset="digits", noise="symmetric", rate=0.6, budget="smoke",
                  options={"epochs": 3, "network": "tiny"}, split_seed=seed, noise_seed=seed,
                  init_seed=seed)
    return Setting(**{**values, **changes})


def record(seed: int = 0, tests=(0.5, 0.8, 0.7), signals=None, **changes) -> runs.Run:
    rows = [{"stage": "train", "epoch": k + 1, "test": t, "val": 0.1, "loss": 1.0, "seconds": 2.0,
             "seconds_evaluating": 0.5} for k, t in enumerate(tests)]
    return runs.save(make(seed), {**INFO, **changes}, rows, signals)


def change(run: runs.Run, **facts) -> None:
    """Edit a record's run.json; a name with two underscores reaches into the setting."""
    file = run.folder / "run.json"
    content = json.loads(file.read_text())
    for name, value in facts.items():
        if name.startswith("setting__"):
            content["setting"][name.removeprefix("setting__")] = value
        else:
            content[name] = value
    file.write_text(json.dumps(content))


def left_out() -> list[str]:
    with pytest.warns(runs.RecordWarning) as said:
        runs.find(finished=False)
    return [str(w.message) for w in said]


def test_every_recorded_run_of_the_project_is_believed():
    """With the key and the folder that it was given when it was recorded."""
    store = REPO / "data" / "runs"
    found, problems = runs.scan(store)
    assert problems == [] and len(found) == len(list(store.rglob("run.json"))) >= 618
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in found:
            assert run.folder == store / run.setting.path
            assert run.folder.name.endswith(run.setting.key)
            assert all(v.shape[-1] == run.info["samples"] for v in run.signals.values())


# ------------------------------------------------------------------------------ A: signals


def test_A_signals_join_images_and_labels(home):
    """Official number and given label of each sample, whatever subset and split were drawn."""
    s = lab.setting("cross_entropy", rate=0.4, epochs=2, max_samples=100, val_fraction=0.2)
    run = lab.run(s, signals=True)
    task, truth = lab.prepare(s)
    kept = run.signals
    assert kept["index"].dtype == np.int32 and len(kept["index"]) == run.info["samples"] == 80
    official = datasets.load("digits")
    assert torch.equal(official.x_train[torch.from_numpy(kept["index"]).long()], task.images)
    assert kept["given"].tolist() == task.y_given.tolist()
    true = official.y_train[torch.from_numpy(kept["index"]).long()].numpy()
    assert (kept["wrong"] == (kept["given"] != true)).all() and kept["wrong"].any()
    assert kept["loss-2"].dtype == np.float32


def test_A_ranks_at_the_top_are_kept(home):
    task, truth = lab.prepare(lab.setting("cross_entropy", max_samples=100))
    log = recorder.Recorder(task, truth)
    p = 1 - torch.arange(len(task), dtype=torch.float64) * 1e-6
    log.signal("p_clean", p)
    assert len(np.unique(log.signals()["p_clean"])) == len(task)  # float16: 1
    before = log.signals()["p_clean"].copy()
    p.fill_(0.5)
    assert (log.signals()["p_clean"] == before).all()


def test_A_old_signals_stay_readable(home):
    run = record(signals={"p_clean": np.ones(4, np.float16), "wrong": np.ones(4, np.float16)})
    assert run.signals["p_clean"].dtype == np.float16


def test_A_suspects_are_listed(call):
    run = record(signals=KEPT)
    code, out, err = call("runs", "show", run.setting.key, "--suspects", 3)
    table = [line.split() for line in out.split("\n\n")[1].splitlines()]
    assert (code, err) == (0, "") and "3 of 4 labels" in out
    assert "33.33 % of these are wrong" in out and "25.00 % of all" in out
    assert [row[:3] for row in table[1:]] == [["1", "3", "1"], ["2", "1", "3"], ["3", "7", "0"]]
    assert [row[-1] for row in table[1:]] == ["wrong", "right", "right"]
    losses = {**{k: KEPT[k] for k in ("index", "given")}, "loss-2": np.zeros(4, np.float32),
              "loss-10": np.array([1, 5, 5, 2], np.float32)}
    out = call("runs", "show", record(1, signals=losses).setting.key, "--suspects")[1]
    rows = [line.split() for line in out.split("\n\n")[1].splitlines()]
    assert rows[0][-1] == "loss-10" and [r[1] for r in rows[1:]] == ["3", "9", "1", "7"]


@pytest.mark.parametrize("signals, words", [
    (None, "recorded without signals"),
    ({"p_clean": np.ones(4, np.float16)}, "before the images' numbers"),
    ({k: KEPT[k] for k in ("index", "given")}, "neither p(label is right) nor losses")])
def test_A_suspects_that_cannot_be_told(call, signals, words):
    code, out, err = call("runs", "show", record(signals=signals).setting.key, "--suspects")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert call("runs", "show", "gce", "--suspects", "0")[0] == 2


# ------------------------------------------------------------------- B1, B2: what is believed


@pytest.mark.parametrize("copy", ["{} copy", "{}-copy", "copy of {}"])
def test_B1_a_copied_folder_is_named_and_not_counted(call, copy):
    three = [record(k) for k in range(3)]
    name = copy.format(three[0].folder.name)
    shutil.copytree(three[0].folder, three[0].folder.with_name(name))
    assert name in left_out()[0] and "belongs in" in left_out()[0]
    code, out, err = call("runs", "compare")
    assert code == 1 and " gce     3 " in out and name in err and "left out" in err
    assert call("runs", "list")[1].count("gce") == 3
    assert call("runs", "show", three[0].setting.key)[0] == 0, "the copy does not hide the run"
    assert name in call("doctor", "--quick")[2]


@pytest.mark.parametrize("level", ["digits", "digits/symmetric-0.60"])
def test_B1_a_copied_branch_is_not_counted(home, level):
    record()
    top = paths.runs_dir()
    shutil.copytree(top / level, top / f"{level} copy")
    assert len(left_out()) == 1
    with pytest.warns(runs.RecordWarning):
        assert len(runs.find()) == 1


@pytest.mark.parametrize("edit", [
    {"setting__rate": 0.8}, {"setting__options": {"epochs": 3, "network": "tiny", "q": 1}},
    {"setting__init_seed": 5}, {"setting__method": "elr"}, {"setting__budget": "laptop"},
    {"setting__max_samples": 10}])
def test_B1_an_edited_setting_does_not_count(call, edit):
    run = record()
    change(run, **edit)
    with pytest.raises(StoreError, match="of another setting than its folder says"):
        runs.load(run.folder)
    code, out, err = call("runs", "list")
    assert code == 1 and "0 runs in" in out and run.folder.name in err
    with pytest.raises(StoreError, match="another setting"):
        runs.lookup(make())


@pytest.mark.parametrize("column, value", [
    ("test", "50"), ("test", "-0.1"), ("test", "inf"), ("test", "nan"), ("val", "7"),
    ("epoch", "9"), ("seconds", "-1"), ("test", "1_0"), ("loss", "x"), ("stage", "\x1b[31m")])
def test_B1_numbers_lie_in_their_range(call, column, value):
    run = record()
    file = run.folder / "epochs.csv"
    header, *lines = file.read_text().splitlines()
    cells = lines[0].split(",")
    cells[header.split(",").index(column)] = value
    file.write_text("\n".join([header, ",".join(cells), *lines[1:]]) + "\n")
    with pytest.raises(StoreError, match=r"is damaged \(epochs.csv: "):
        runs.load(run.folder)
    code, out, err = call("runs", "list")
    assert code == 1 and "epochs.csv" in err and "\x1b" not in out + err


WRONG = [
    {"seconds": "x"}, {"seconds": -1}, {"seconds": math.nan}, {"seconds": [1]}, {"seconds": True},
    {"realised_rate": "much"}, {"realised_rate": 36}, {"versions": "2"}, {"versions": {"a": 1}},
    {"versions": None}, {"hardware": 3}, {"commit": {}}, {"date": 1}, {"date": "\x1b[2J"},
    {"samples": "4"}, {"samples": -4}, {"samples": 4.5}, {"epochs": "3"}, {"epochs": 10**400},
    {"status": "done"}, {"status": 1}, {"why": []}, {"last": "x"}, {"last": 70}, {"best": None},
    {"mean_last_10": "x"}, {"execution": []}, {"execution": {"compile": "no"}}, {"format": "1"},
    {"seconds_per_epoch": "x"}, {"trusted": None}, {"validation": "x"}, {"parts": 3},
    {"parts": [3]}, {"parts": [{"epochs": [2, 1]}]}, {"parts": [{"commit": 1}]}, {"_signals": 1},
    {"noise_note": 1}, {"noise_redrawn": "x"}, {"signals_lack": 3}, {"threads": 0},
    {"setting": 3}, {"setting": []}, {"setting__dataset": "sv hn"}, {"setting__dataset": 3},
    {"setting__rate": "0.6"}, {"setting__rate": 2}, {"setting__rate": True},
    {"setting__options": []}, {"setting__options": {"network": {"a": 1}}},
    {"setting__options": {"network": "\x1b[31mred"}}, {"setting__options": {"x": [[1]]}},
    {"setting__init_seed": "0"}, {"setting__init_seed": 0.5}, {"setting__max_samples": "all"},
    {"setting__method": "../../x"}, {"setting__method": "\x1b[2J"}, {"setting__noise": None},
    {"setting__val_fraction": None}, {"setting__trusted_per_class": -1}, {"setting__budget": 5},
]  # fmt: skip


@pytest.mark.parametrize("edit", WRONG, ids=[f"{k}={str(v)[:12]!r}" for w in WRONG
                                             for k, v in w.items()])  # fmt: skip
def test_B2_a_wrong_type_is_refused_with_the_file_named(home, edit):
    run = record()
    change(run, **edit)
    with pytest.raises(StoreError) as said:
        runs.load(run.folder)
    assert "run.json" in str(said.value) and "delete that folder" in str(said.value)
    assert str(said.value).isprintable()


@pytest.mark.parametrize("content", [
    "[" * 100_000, '{"setting":' * 50_000, "", "\x00", "{", "nul", '"x"', "3"])
def test_B2_B11_no_json_is_a_traceback(call, content):
    run = record()
    (run.folder / "run.json").write_text(content)
    for words in (("runs", "list"), ("runs", "show", run.setting.key)):
        code, out, err = call(*words)
        assert code == 1 and "run.json" in err and len(err) < 1_000


def damage(content: dict, **changes) -> dict:
    return {**content, **changes}


SIGNALS = [
    b"", b"garbage", b"PK\x03\x04 garbage", damage(KEPT, p_clean=np.ones(3, np.float32)),
    damage(KEPT, p_clean=np.full(4, 3.0)), damage(KEPT, p_clean=np.full(4, np.nan)),
    damage(KEPT, index=np.array([1, 1, 2, 3])), damage(KEPT, index=-KEPT["index"]),
    damage(KEPT, given=np.ones(4) / 2), damage(KEPT, wrong=np.full(4, 2)),
    damage(KEPT, p=np.array(["a"] * 4)), damage(KEPT, p=np.array([{}] * 4, object)),
    damage(KEPT, p=np.ones((2, 2, 4))), damage(KEPT, p=np.zeros(100_000)),
    {"\x1b[31m": np.ones(4)}, "text"]  # fmt: skip


@pytest.mark.parametrize("content", SIGNALS)
def test_B2_signals_that_are_none_are_named(call, content):
    run = record(signals=KEPT)
    file = run.folder / "signals.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "text":  # a member that is no array at all
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("note.txt", "hello")
    else:
        np.savez(file, **content)
    with pytest.raises(StoreError, match=r"signals.npz is damaged \(") as said:
        _ = run.signals
    assert "allow_pickle" not in str(said.value)
    code, _, err = call("runs", "show", run.setting.key, "--suspects")
    assert code == 1 and "signals.npz" in err and err.count("\n") == 1
    assert call("runs", "list")[0] == 0 and "signals.npz" in call("doctor", "--quick")[2]


def test_B2_losses_of_all_epochs_have_room(home):
    """A later record may keep one row an epoch, an entry a sample."""
    rows = np.zeros((3, 4), np.uint8)
    run = record(signals={**KEPT, "losses": rows}, losses_of=[1, 2, 3])
    assert run.signals["losses"].shape == (3, 4)


@pytest.mark.parametrize("losses, of, said", [
    (np.zeros((3, 4), np.uint8), None, "and run.json has no losses_of that says of which epochs"),
    (np.zeros((2, 4), np.uint8), [1, 2, 3], "each of the 3 epochs of losses_of, not uint8 of "
                                            r"shape \(2, 4\)"),
    (np.zeros(4, np.uint8), [3], r"not uint8 of shape \(4,\)"),
    (np.zeros((3, 4), np.float32), [1, 2, 3], "a byte for each sample .* not float32"),
])
def test_B2_losses_are_those_of_the_epochs_that_the_record_names(home, losses, of, said):
    facts = {} if of is None else {"losses_of": of}
    run = record(signals={**KEPT, "losses": losses}, **facts)
    with pytest.raises(StoreError, match=rf"signals.npz is damaged \(losses .*{said}"):
        _ = run.signals


def test_B2_losses_of_an_epoch_that_the_run_has_not(home):
    with pytest.raises(StoreError, match="losses_of names epoch 9 of 3"):
        record(losses_of=[1, 9])


@pytest.mark.parametrize("name, shape", [("features-x", (2, 4)), ("features-0", (2, 4)),
                                         ("features-3", (4,))])
def test_B2_features_have_their_epoch_in_the_name_and_a_row_each(home, name, shape):
    run = record(signals={**KEPT, name: np.zeros(shape, np.uint8)})
    with pytest.raises(StoreError, match="must be named by its epoch, as features-3"):
        _ = run.signals


@pytest.mark.parametrize("edit", [
    {"seconds": "x"}, {"versions": "2"}, {"setting__dataset": "svhn"}, {"setting__rate": 0.8},
    {"setting__options": {"network": "\x1b[31m"}}, "signals", "epochs"])
def test_B2_the_same_schema_on_unpacking(home, tmp_path, monkeypatch, edit):
    run = record(signals=KEPT)
    if edit == "signals":
        (run.folder / "signals.npz").write_bytes(b"garbage")
    elif edit == "epochs":
        file = run.folder / "epochs.csv"
        file.write_text(file.read_text().replace("0.5,", "50,", 1))
    else:
        change(run, **edit)
    monkeypatch.setattr(runs, "load", lambda folder: None)  # somebody packed it by hand
    bundle.pack(tmp_path / "x.tar", [run.setting])
    monkeypatch.undo()
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path / "other"))
    with pytest.raises(bundle.BundleError, match="which cannot be read") as said:
        bundle.unpack(tmp_path / "x.tar")
    assert "delete" not in str(said.value) and str(said.value).isprintable()
    assert runs.find() == []


def test_B2_reproduce_names_what_it_leaves_out(home):
    record()
    change(record(1), seconds="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = planning.make(planning.Selection(),
                             cost.Estimates(engine.Execution("cpu").resolve()))
    assert len(plan.strange) == 1 and "seconds" in plan.strange[0]


# -------------------------------------------------------------------- B3: what it was made with


class Killed(BaseException):
    pass


def broken_off(s: Setting, after: int, **more) -> None:
    """Train `after` epochs of a run, then die."""

    def stop(row):
        if row["epoch"] == after:
            raise Killed

    with pytest.raises(Killed):
        lab.run(s, progress=stop, **more)


def quick(**changes) -> Setting:
    return lab.setting("cross_entropy", rate=0.6, **{"epochs": 4, "max_samples": 100, **changes})


def test_B3_each_part_of_a_run_says_with_what_it_was_made(call, monkeypatch):
    s = quick()
    monkeypatch.setattr(provenance, "commit", lambda: "old")
    broken_off(s, 1)
    broken_off(s, 3)  # goes on alike: one part
    monkeypatch.setattr(provenance, "commit", lambda: "new")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    run = lab.run(s)
    first, second = run.info["parts"]
    assert (first["epochs"], second["epochs"]) == ([1, 3], [4, 4])
    assert (first["commit"], second["commit"]) == ("old", "new") and run.info["commit"] == "new"
    for part in (first, second):
        assert part["threads"] == torch.get_num_threads()
        assert part["versions"]["torch"] == torch.__version__ and part["hardware"] and part["date"]
        assert part["instructions"].startswith(torch.backends.cpu.get_cpu_capability())
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in second["instructions"] != first["instructions"]
    out = call("runs", "show", s.key)[1]
    assert "epochs 1-3" in out and "commit old" in out and "epochs 4-4" in out
    assert f"processor {run.info['instructions']}" in " ".join(out.split())
    assert run.info["instructions"] == second["instructions"] == engine.instructions()


@pytest.mark.parametrize("limits, expected", [
    ({}, "AVX512 AVX512_BF16 AMX"),
    ({"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, "AVX512 AVX512_BF16 ONEDNN_MAX_CPU_ISA=avx512"
                                                 "_core_bf16"),
    ({"DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "AVX512 AVX512_BF16 AMX DNNL_MAX_CPU_ISA=AVX512_CORE"
                                              "_AMX"),
    ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
     "AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2"),
])  # fmt: skip
def test_a_record_names_the_instruction_set_within_its_limits(limits, expected, monkeypatch):
    for name in engine.LIMITS:
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: expected.split()[0])
    assert engine.instructions() == expected
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not {"AVX512_BF16", "AMX"} & set(engine.instructions().split())


def test_a_record_of_before_has_no_instructions(say):
    s = quick()
    run = lab.run(s)
    file = run.folder / "run.json"
    facts = json.loads(file.read_text())
    del facts["instructions"], facts["parts"][0]["instructions"]
    file.write_text(json.dumps(facts))
    assert runs.lookup(s).setting.key == s.key
    assert "processor not recorded" in say("runs", "show", s.key)[1]


def test_B3_an_unbroken_run_is_one_part_and_old_checkpoints_say_so(home):
    s = quick()
    assert [p["epochs"] for p in lab.run(s).info["parts"]] == [[1, 4]]
    s = quick(seed=1)
    broken_off(s, 2)
    file = lab.checkpoints_of(s) / "block-0.pt"
    held = torch.load(file, weights_only=True)
    del held["parts"], held["losses_at"]
    torch.save(held, file)
    first, second = lab.run(s).info["parts"]
    assert first == {"epochs": [1, 2]} and second["epochs"] == [3, 4]


def test_B3_a_failed_run_says_it_too(home):
    with pytest.raises(lab.TrainingFailed):
        lab.run(quick(lr=1e9, momentum=0.99))
    (run,) = runs.find(finished=False)
    assert run.info["parts"][0]["commit"] == "abc" and run.info["why"]


# ------------------------------------------------------------------------ B4, B13: others' files


@pytest.mark.parametrize("content", ["my notes", "{}", "[]", '{"rows": []}', "\x00", "[" * 99_999])
def test_B4_bench_overwrites_only_its_own(call, monkeypatch, content):
    file = Path("notes.txt")
    file.write_text(content, encoding="utf-8")
    monkeypatch.setattr(bench, "measure", None)
    code, out, err = call("bench", "--quick", "--out", file)
    assert (code, out) == (2, "") and "notes.txt is there and is no result" in err
    assert file.read_text(encoding="utf-8") == content
    Path("folder").mkdir()
    assert call("bench", "--quick", "--out", "folder")[0] == 2
    bench_report.write(Path("own.json"), {"environment": {}, "rows": [], "goals": []})
    bench_report.check_target(Path("own.json"))


@pytest.mark.parametrize("suffix, content", [(".md", "# my notes\n"), (".csv", "a,b\n1,2\n"),
                                             (".md", ""), (".csv", None)])  # fmt: skip
def test_B4_reproduce_overwrites_only_its_own(home, suffix, content):
    file = home / f"reproduce-smoke{suffix}"
    file.write_text(content) if content is not None else file.symlink_to("nowhere")
    with pytest.raises(ValueError, match="is no report of this command"):
        reproduce_report.check_free(home, "smoke")
    file.unlink()
    file.write_text({".md": f"{reproduce_report.TITLE}, x", ".csv": ",".join(
        reproduce_report.FIRST)}[suffix])
    reproduce_report.check_free(home, "smoke")


def test_B13_packing_follows_no_link(home):
    target = home / "precious"
    target.write_text("mine")
    for name in (".b.tar.tmp", "b.tar"):
        (home / name).symlink_to(target)
    record()
    with pytest.raises(ValueError, match="b.tar is there and is no bundle"):
        bundle.pack(home / "b.tar", [make()])
    (home / "b.tar").unlink()
    assert bundle.pack(home / "b.tar", [make()]).runs == 1 and target.read_text() == "mine"


def test_B13_a_link_for_a_lock_is_refused_and_nothing_emptied(home):
    target = home / "precious"
    target.write_text("mine")
    lock = paths.cache_dir() / "locks" / f"{make().key}.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(target)
    with pytest.raises(StoreError, match="is a link, and no lock"), runs.lock(make()):
        pass
    assert target.read_text() == "mine"


def test_B13_a_checkpoint_is_not_written_through_a_link(home):
    target, folder = home / "precious", home / "checkpoints"
    target.write_text("mine")
    folder.mkdir()
    (folder / "block-0.tmp").symlink_to(target)
    recorder._write(checkpoint(1), folder / "block-0.pt")
    assert target.read_text() == "mine"
    assert len(recorder.read_checkpoint(folder / "block-0.pt")["rows"]) == 1


# ------------------------------------------------------------------------ B5, B6: disks and rights


@pytest.mark.parametrize("what", ["run", "checkpoint"])
@pytest.mark.parametrize("full", [False, True])
def test_B5_another_disk_is_no_trouble(home, tmp_path, monkeypatch, what, full):
    """Nothing is renamed from one disk to the other; a full one leaves nothing."""
    s = make() if what == "checkpoint" else record().setting
    if what == "checkpoint":
        recorder._write(checkpoint(2, 3), lab.checkpoints_of(s) / "block-0.pt")
    bundle.pack(tmp_path / "x.tar", [s])
    other = tmp_path / "other"
    monkeypatch.setenv("NOISYLABELS_HOME", str(other))
    rename, place = os.rename, paths.runs_dir() / s.path
    if what == "checkpoint":
        place = lab.checkpoints_of(s)

    def on_its_own_disk(a, b):
        assert Path(a).parent == Path(b).parent
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(a, b)

    monkeypatch.setattr(runs.os, "rename", on_its_own_disk)
    if full:
        with pytest.raises(StoreError, match="No space left on device"):
            bundle.unpack(tmp_path / "x.tar")
    else:
        taken = bundle.unpack(tmp_path / "x.tar")
        assert len(taken.runs) + len(taken.checkpoints) == 1
    assert place.exists() != full and [p for p in other.rglob(".*") if p.is_dir()] == []


@pytest.mark.parametrize("name", ["runs", "cache"])
def test_B5_a_link_to_a_disk_that_is_not_there_is_said(home, tmp_path, name):
    record()
    bundle.pack(tmp_path / "x.tar", [make()])
    shutil.rmtree(home / "data")
    (home / "data").mkdir()
    (home / "data" / name).symlink_to("/not/mounted")
    with pytest.raises(StoreError, match=f"no folder .*{name}: .*mount the disk that it links to"):
        bundle.unpack(tmp_path / "x.tar")
    if name == "runs":
        with pytest.raises(StoreError, match="mount"):
            runs.find()


@pytest.mark.parametrize("name", ["run.json", "epochs.csv", "signals.npz", "block-0.pt"])
def test_B6_unreadable_is_not_damaged(home, monkeypatch, name):
    run = record(signals=KEPT)
    recorder._write(checkpoint(1), home / "block-0.pt")
    real = open

    def closed(file, *args, **more):
        if Path(str(file)).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **more)

    monkeypatch.setattr("builtins.open", closed)
    monkeypatch.setattr("io.open", closed)
    with pytest.raises(StoreError, match=rf"{name} cannot be read .Permission denied.*readable"
                       ) as said:  # fmt: skip
        if name == "block-0.pt":
            recorder.read_checkpoint(home / name)
        _ = runs.load(run.folder).signals
    assert "delete" not in str(said.value)


def test_B6_a_folder_that_cannot_be_listed_is_named(home, monkeypatch):
    record()
    scan = os.scandir

    def closed(folder):
        if Path(folder).name == "digits":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(runs.os, "scandir", closed)
    assert "digits cannot be read (Permission denied)" in left_out()[0]


# ------------------------------------------------------------------------ B8: checkpoints

BROKEN = [
    ("epoch", dict(epoch=99)), ("epoch of count", dict(epoch=2, count=1)), ("zero", dict(epoch=0)),
    ("text", dict(epoch="2")), ("count", dict(count=None)), ("rows", dict(rows=3)),
    ("rows of text", dict(rows=["x", "y"])), ("no stage", dict(rows=[{"epoch": 1}, {"epoch": 2}])),
    ("numbers", dict(rows=checkpoint(2)["rows"][::-1])), ("empty", dict(rows=[])),
    ("state", dict(state={})), ("signals", dict(signals=[])), ("generators", dict(generators=3)),
    ("parts", dict(parts=[3])), ("test 50", dict(rows=[{**r, "test": 50.0} for r in
                                                       checkpoint(2)["rows"]])),
    ("two stages", dict(rows=[*checkpoint(1)["rows"], {**checkpoint(2)["rows"][1],
                                                       "stage": "other"}])),
    ("lacks", dict(rows=[{k: v for k, v in r.items() if k != "test"} for r in
                         checkpoint(2)["rows"]])),
]  # fmt: skip


@pytest.mark.parametrize("changes", [c for _, c in BROKEN], ids=[n for n, _ in BROKEN])
def test_B8_rows_epochs_and_stages_agree(home, changes):
    s = quick()
    file = lab.checkpoints_of(s) / "block-0.pt"
    recorder._write({**checkpoint(2, 4), **changes}, file)
    with pytest.raises(StoreError, match="block-0.pt cannot be read .*delete its folder"):
        recorder.read_checkpoint(file)
    with pytest.raises(StoreError, match="block-0.pt cannot be read"):
        lab.run(s)
    assert lab.epochs_begun(s) == 0 and runs.find(finished=False) == []
    assert bundle.pack(home / "x.tar", [s]).checkpoints == 0


@pytest.mark.parametrize("held", [
    checkpoint(2, 9), checkpoint(4, 9), checkpoint(2, 4, stage="S1"), checkpoint(2, 4, before=1),
    checkpoint(2, 4, signals={"p": torch.ones(7)}), checkpoint(2, 4, signals={"p": 3}),
    checkpoint(2, 4, signals={"p": torch.tensor(1.0)}), checkpoint(2, 4, state=[]),
    checkpoint(2, 4, state=[{"linear.weight": torch.ones(3)}, {}])])
def test_B8_a_checkpoint_of_another_course_is_refused(home, held):
    s = quick()
    recorder._write(held, lab.checkpoints_of(s) / "block-0.pt")
    with pytest.raises(StoreError, match="block-0.pt cannot be read .*start this run") as said:
        lab.run(s)
    assert runs.find(finished=False) == []
    for foreign in ("zip()", "state_dict", "size mismatch", "shape", "len()"):  # in our own words
        assert foreign not in str(said.value)


@pytest.mark.parametrize("second, why", [
    (checkpoint(1, 2, before=3, stage="s3"), "does not go on"), (None, "has 5 epochs"),
    (checkpoint(1, 2, before=2, stage="s2"), "")])
def test_B8_blocks_follow_one_another(home, second, why):
    folder = home / "held"
    recorder._write(checkpoint(2, 2, stage="s0"), folder / "block-0.pt")
    rows = second and [{**r, "stage": "s0"} if r["epoch"] < 3 else r for r in second["rows"]]
    last = {**second, "rows": rows} if second else checkpoint(5, 9)
    recorder._write(last, folder / ("block-1.pt" if second else "block-0.pt"))
    if not why:
        assert recorder.epochs_in(folder, 4) == 3
        (folder / "block-1.pt").rename(folder / "block-2.pt")
        why = "does not go on"
    with pytest.raises(StoreError, match=why):
        recorder.epochs_in(folder, 4)
    assert recorder.epochs_in(home / "none") == 0


# ------------------------------------------------------------------ B9: signals asked for later


def test_B9_signals_of_a_finished_run_are_said_or_made(say):
    s = quick()
    words = ["train", "--method", "cross_entropy", "--rate", "0.6", "--epochs", 4,
             "--max-samples", 100, "--signals"]
    plain = lab.run(s)
    before = {p: p.read_bytes() for p in plain.folder.iterdir()}
    code, out, _ = say(*words)
    assert code == 0 and "recorded without signals, --again trains it once more" in out
    assert not runs.lookup(s).has_signals and "epoch 1/4" not in out
    code, out, _ = say(*words, "--again")
    assert code == 0 and "once more, for its signals; the record stays" in out
    assert {p: p.read_bytes() for p in before} == before
    assert set(runs.lookup(s).signals) == {"index", "given", "wrong", "loss-2", "loss-4"}
    code, out, _ = say(*words, "--again")  # now they are there
    assert code == 0 and "it is loaded" in out and "epoch 1/4" not in out


def test_B9_signals_of_other_numbers_are_not_added(home, monkeypatch):
    run = lab.run(quick())
    rows = [{k: (v[i] if k == "stage" else float(v[i])) for k, v in run.epochs.items()}
            for i in range(4)]
    rows[2]["loss"] += 0.01
    with pytest.raises(StoreError, match="has other numbers .loss. than the record"):
        runs.keep_signals(run, rows, KEPT)
    assert not runs.lookup(quick()).has_signals


def test_B9_a_run_begun_without_says_what_it_lacks_or_starts_anew(say):
    s, other = quick(), quick(seed=1)
    words = ["train", "--method", "cross_entropy", "--rate", "0.6", "--epochs", 4,
             "--max-samples", 100, "--signals"]
    broken_off(s, 3), broken_off(other, 3)
    code, out, _ = say(*words)
    assert code == 0 and "began without --signals" in out and "--again starts it anew" in out
    assert "lack loss-2" in out and runs.lookup(s).info["signals_lack"] == ["loss-2"]
    code, out, _ = say(*words, "--seed", 1, "--again")
    assert code == 0 and "epoch 1/4" in out and "lack" not in out
    assert {"loss-2", "loss-4"} < set(runs.lookup(other).signals)


def test_B9_a_run_begun_with_signals_keeps_them(home):
    broken_off(quick(), 3, signals=True)
    run = lab.run(quick())
    assert {"loss-2", "loss-4", "index"} < set(run.signals) and "signals_lack" not in run.info


# -------------------------------------------------------------------- B10, B12: tables and pages


def test_B10_a_folder_that_is_not_there_is_no_empty_store(home):
    with pytest.raises(StoreError, match="there is no folder /nonexistent"):
        runs.find(Path("/nonexistent"))
    with pytest.raises(StoreError, match="there is no folder"):
        ledger.recorded("/nonexistent")
    (home / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no finished run"):
        ledger.recorded(str(home / "empty"))
    assert runs.find() == [] == ledger.recorded(), "a fresh machine has no store yet"
    record()
    assert len(ledger.recorded(str(paths.runs_dir()))) == 1


def table(home: Path, name: str) -> Path:
    shutil.copy(TABLES / f"{name}.csv", home / f"{name}.csv")
    return home / f"{name}.csv"


@pytest.mark.parametrize("name, load", [
    ("cells", published.load_cells), ("numbers", published.load_numbers),
    ("claims", published.load_claims)])
def test_B10_a_cut_table_is_refused(home, name, load):
    file = table(home, name)
    text = file.read_text("utf-8")
    whole = len(load(home))
    quoted = text.index('"', len(text) // 2)
    quoted += text[:quoted].count('"') % 2  # just behind an opening quote
    for cut in (quoted + 1, quoted + 5, text.rindex("\n", 0, -1), len(text) * 2 // 3):
        if text[cut - 1] == "\n":
            continue
        file.write_text(text[:cut], "utf-8")
        with pytest.raises(ValueError, match=rf"{name}.csv"):
            load(home)
    file.write_text(text, "utf-8")
    assert len(load(home)) == whole


@pytest.mark.parametrize("content", [
    "stage,test\ntrain,0.5\ntrain,0.", "stage,test\ntrain,\"0.5\n", "stage,test\ntrain,0.5,1\n",
    "stage,test,test\na,0.5,0.5\n", "stage,\x1b\na,0.5\n"])
def test_B10_epochs_are_read_strictly(content):
    with pytest.raises(ValueError, match="cut|no table|one length|twice|no name"):
        schema.read_epochs(content)


def test_B12_a_metric_is_text(home):
    shutil.copytree(TABLES, paths.published_dir())
    file = table(home, "cells")
    with pytest.raises(ValueError, match="metric '<b>x</b>' is not one of last, best"):
        file.write_text(file.read_text("utf-8").replace(",best,", ",<b>x</b>,", 1), "utf-8")
        published.load_cells(home)
    cell = next(c for c in published.load_cells(TABLES) if c.published_value is not None)
    bad = dataclasses.replace(cell, metric="<img src=x onerror=alert(1)>")
    assert "<img" not in str(ledger_page.target_list([ledger.judge_cell(bad, [])])._repr_html_())
    assert "<img" not in tables._printed(bad)


@pytest.mark.parametrize("page", ["javascript:alert(1)", "//evil.example/x", "../x", "a<b"])
def test_B12_a_page_is_the_name_of_a_notebook(home, page):
    shutil.copytree(TABLES, paths.published_dir())
    file = table(home, "claims")
    claim = next(c for c in published.load_claims(TABLES) if c.page)
    text = file.read_text("utf-8").replace(f",{claim.page}\n", f",{page}\n", 1)
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="is no name of a notebook"):
        published.load_claims(home)
    entry = ledger.judge(dataclasses.replace(claim, page=page), [])
    assert page not in ledger_page.claim_list([entry])._repr_html_()


# ------------------------------------------------------------------------ B11, B14, B15, B18


@pytest.mark.parametrize("variable", ["NOISYLABELS_HOME", "NOISYLABELS_DATA"])
def test_B11_a_folder_of_nobody_is_a_sentence(call, monkeypatch, variable):
    monkeypatch.setenv(variable, "~nosuchuser/x")
    code, _, err = call("train", "--method", "gce", "--dataset", "cifar10", "--device", "cpu",
                        "--max-samples", 100, "--epochs", 1)
    assert code == 2 and f"${variable} is '~nosuchuser/x', which names no folder" in err


def test_B14_escape_codes_do_not_reach_the_terminal(call, capsys):
    assert wording.plain("a\x1b[31mb\x07 é – ±") == r"a\x1b[31mb\x07 é – ±"
    common.say(common.table(("a",), [("\x1b[2J",)]), common.facts([("x", "\x1b[2J")]))
    said = capsys.readouterr().out
    assert "\x1b" not in wording.table(("a",), [("\x1b[2J",)]) + said and said.count("[2J") == 2
    code, _, err = call("runs", "show", "\x1b[2Jx")
    assert code == 2 and "\x1b" not in err
    folder = paths.runs_dir() / "digits" / "\x1b[2J" / "gce" / "smoke-0-00000000"
    folder.mkdir(parents=True)
    for words in (("runs", "list"), ("doctor", "--quick")):
        code, out, err = call(*words)
        assert code == 1 and "\x1b" not in out + err and "has no run.json" in out + err


def test_B15_a_finished_run_is_not_begun_for_ever(call):
    run = record()
    recorder._write(checkpoint(3), lab.checkpoints_of(run.setting) / "block-0.pt")
    out = call("doctor", "--quick")[1]
    assert "no run begun and not finished" in out and "1 thing that a kill left behind" in out
    code, out, _ = call("doctor", "--quick", "--tidy")
    assert "deleted 1 of 1 things" in out and not lab.checkpoints_of(run.setting).exists()
    s = quick()
    lab.run(s)
    recorder._write(checkpoint(3), lab.checkpoints_of(s) / "block-0.pt")
    lab.run(s)
    assert not lab.checkpoints_of(s).exists(), "to load a finished run tidies up after it"


def test_B15_what_kills_left_behind_is_named_and_deleted(call, home):
    run = record()
    hidden = [run.folder.with_name(f".{run.folder.name}-123456.{x}") for x in ("tmp", "old")]
    hidden += [paths.cache_dir() / f".{x}-abc.tmp" for x in ("pack", "unpack")]
    for folder in hidden:
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    young = run.folder.with_name(f".{run.folder.name}-999999.tmp")
    young.mkdir()
    for folder in hidden:
        os.utime(folder, (time.time() - 2 * leftovers.AN_HOUR,) * 2)
    assert "4 things that a kill left behind" in call("doctor", "--quick")[1]
    assert len(runs.find()) == 1
    assert "deleted 4 of 4 things" in call("doctor", "--quick", "--tidy")[1]
    assert not any(f.exists() for f in hidden) and young.exists() and len(runs.find()) == 1
    ignored = (REPO / ".gitignore").read_text().split()
    assert {"*.tmp", "*.old"} <= set(ignored)


def test_B15_records_out_of_place_are_named(call):
    run = record()
    shutil.copytree(run.folder, paths.runs_dir() / "backup" / "x")
    out = " ".join(call("doctor", "--quick")[1].split())  # a long path goes to a new line
    assert "1 run.json in no place of a run, not counted: data/runs/backup/x/run.json" in out


@pytest.mark.parametrize("content", [b"garbage", b"", b"PK\x03\x04" + b"x" * 99, b"\x80\x02c"])
def test_B18_no_advice_to_load_unsafely(home, content):
    s = quick()
    file = lab.checkpoints_of(s) / "block-0.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    for step in (lambda: recorder.read_checkpoint(file), lambda: lab.run(s)):
        with pytest.raises(StoreError, match="block-0.pt cannot be read") as said:
            step()
        assert "weights_only" not in str(said.value) and "arbitrary" not in str(said.value)
    (left,) = bundle.pack(home / "x.tar", [s]).left_out
    assert "weights_only" not in left and "cannot be read" in left


@pytest.mark.parametrize("name", sorted(runs.FLAGS - {"max_samples"}))
def test_B18_reproduce_points_to_no_argument_that_it_lacks(call, name):
    code, out, err = call("reproduce", "--budget", "smoke", "--set", f"{name}=1", "--dry-run")
    assert (code, out) == (2, "") and "is no option of a method" in err
    assert f"--{name.replace('_', '-')} " not in err.replace("--method,", "").replace(
        "--dataset,", "").replace("--budget", "")
    with pytest.raises(ValueError, match=f"use --{name.replace('_', '-')}"):
        train.given_options([f"{name}=1"])


def test_B18_reproduce_promises_no_run_that_is_refused(call, home):
    if not hasattr(lab, "check"):
        pytest.skip("needs the check of a whole setting")
    (home / "data").mkdir()
    shutil.copytree(TABLES, home / "data" / "published")
    code, out, err = call("reproduce", "--budget", "smoke", "--max-samples", 5, "--dry-run",
                          "--device", "cpu")
    assert code == 2 and "max_samples" in err and "will end" not in out
