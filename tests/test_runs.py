"""The store: hashing, whole files, locks, and what happens when the disk says no."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing as mp
import time
from types import SimpleNamespace

import numpy as np
import pytest

from noisylabels import lab, noise, paths
from noisylabels.lab import running
from noisylabels.training import runs
from noisylabels.training.runs import Setting

ROWS = [{"stage": "train", "epoch": e, "test": t, "val": v, "loss": 1.0}
        for e, t, v in [(1, 0.50, 0.30), (2, 0.80, 0.60), (3, 0.70, 0.55)]]


def make(seed: int = 0, **changes) -> Setting:
    values = dict(method="cross_entropy", dataset="digits", noise="symmetric", rate=0.4,
                  budget="smoke", options={"epochs": 3, "lr": 0.05}, split_seed=seed,
                  noise_seed=seed, init_seed=seed)
    return Setting(**{**values, **changes})


def test_equal_settings_have_equal_keys_and_any_change_another():
    a, b = make(), make(options={"lr": 0.05, "epochs": 3})
    assert a.key == b.key and a == b and len(a.key) == 8
    others = [make(1), make(rate=0.41), make(options={"epochs": 4, "lr": 0.05}),
              make(max_samples=100), make(trusted_per_class=1), make(val_fraction=0.1),
              make(noise_seed=7)]
    assert len({s.key for s in [a, *others]}) == 8


def test_path_and_seed_name_the_run():
    assert str(make().path) == f"digits/symmetric-0.40/cross_entropy/smoke-0-{make().key}"
    assert make(noise_seed=7).seed == "0.7.0"
    assert make(3).cell == make(0)


def test_a_setting_survives_its_text():
    s = make(options={"milestones": (2, 3), "lr": 0.1})
    assert Setting.from_dict(json.loads(json.dumps(s.as_dict(), default=list))) == s


@pytest.mark.parametrize("bad, words", [
    (dict(budget="huge"), "unknown budget 'huge'; allowed: smoke, laptop, desk, fast, paper"),
    (dict(rate=1.2), "in \\[0, 1\\], not 1.2"),
    (dict(val_fraction=1.0), "nothing to train on; allowed: \\[0, 1\\)")])
def test_a_bad_setting_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        make(**bad)


def test_a_saved_run_reads_back(tmp_path):
    run = runs.save(make(), {"status": "finished", "realised_rate": 0.36}, ROWS,
                    {"loss-2": np.arange(4, dtype=np.float16)}, root=tmp_path)
    assert run.finished and run.setting == make() and run.info["realised_rate"] == 0.36
    assert run.last() == 0.70 and run.best() == 0.80
    assert run.by_validation() == 0.80 and run.mean_last(2) == pytest.approx(0.75)
    assert list(run.epochs["stage"]) == ["train"] * 3
    assert run.signals["loss-2"].tolist() == [0, 1, 2, 3]
    assert runs.find(tmp_path, method="cross_entropy", epochs=3, rate=(0.2, 0.4)) != []
    assert runs.find(tmp_path, method="elr") == []
    assert runs.resolve(make().key, tmp_path).setting == make()
    with pytest.raises(ValueError, match="0 runs match"):
        runs.resolve("nothing-like-it", tmp_path)


STAGES = [{"stage": s, "epoch": e, "test": t, "val": v} for e, (s, t, v) in enumerate(
    [("S1", 0.95, 0.90), ("S1", 0.10, 0.10), ("S3", 0.60, 0.20), ("S3", 0.80, 0.25),
     ("S3", 0.70, 0.30)], start=1)]


@pytest.mark.parametrize("info", [{}, {"best": 0.95, "mean_last_10": 0.63, "last": 0.70}])
def test_only_the_last_stage_is_chosen_from(tmp_path, info):
    """A better network of an earlier stage is discarded by the method; older records too."""
    run = runs.save(make(), {"status": "finished", **info}, STAGES, root=tmp_path)
    assert run.epochs["stage"].dtype.kind == "U" and len(run.epochs["test"]) == 5
    assert run.last_stage().tolist() == [0.60, 0.80, 0.70] and run.last() == 0.70
    assert run.best() == 0.80 and run.by_validation() == 0.70 and run.best("val") == 0.30
    assert run.mean_last() == pytest.approx(0.70) and run.mean_last(2) == pytest.approx(0.75)
    if info:
        assert (run.info["best"], run.info["last"]) == (0.80, 0.70)
        assert run.info["mean_last_10"] == pytest.approx(0.70)
        stored = json.loads((run.folder / "run.json").read_text())
        assert stored["best"] == 0.95, "the file itself stays as it is"
    rows = [{k: v for k, v in row.items() if k != "stage"} for row in STAGES]
    assert runs.save(make(1), {}, rows, root=tmp_path).best() == 0.95, "a record without stages"


def test_a_new_record_sums_up_its_last_stage():
    log = SimpleNamespace(rows=[{**row, "seconds": 1.0, "seconds_evaluating": 0.5}
                                for row in STAGES])
    info = lab.summary(log)
    assert (info["epochs"], info["last"], info["best"]) == (5, 0.70, 0.80)
    assert info["mean_last_10"] == pytest.approx(0.70) and info["seconds"] == 7.5


def test_the_record_counts_images_that_were_drawn_again(monkeypatch):
    s = lab.setting("cross_entropy", rate=0.4, max_samples=100)
    assert "noise_redrawn" not in lab.facts(*lab.prepare(s))
    kind = type(noise.named("symmetric"))
    make = kind.make
    monkeypatch.setattr(kind, "make",
                        lambda *a, **k: dataclasses.replace(make(*a, **k), redrawn=7))
    assert lab.facts(*lab.prepare(s))["noise_redrawn"] == 7


def test_recorded_staged_runs_are_read_by_their_last_stage():
    """What a staged method's record says is what its last stage says, in all recorded runs."""
    found = runs.find(paths.home() / "data" / "runs", method="drpl")
    early = [r for r in found if r.epochs["test"].max() > r.best()]
    assert early, "in some of them an earlier stage had the best network"
    for r in found:
        last = r.epochs["stage"] == "S3 final"
        assert last.sum() == r.setting.options["epochs"]
        assert r.best() == r.info["best"] == r.epochs["test"][last].max()


def test_without_validation_nothing_is_chosen_by_it(tmp_path):
    rows = [{**r, "val": math.nan} for r in ROWS]
    run = runs.save(make(), {"status": "finished"}, rows, root=tmp_path)
    assert math.isnan(run.by_validation())


def test_a_finished_run_is_never_replaced_and_a_failed_one_gives_way(tmp_path):
    runs.save(make(), {"status": "failed", "why": "nan"}, ROWS[:1], root=tmp_path)
    assert runs.find(tmp_path) == [] and len(runs.find(tmp_path, finished=False)) == 1
    first = runs.save(make(), {"status": "finished"}, ROWS, root=tmp_path)
    again = runs.save(make(), {"status": "finished"}, ROWS[:2], root=tmp_path)
    assert len(first.epochs["test"]) == len(again.epochs["test"]) == 3


def test_a_damaged_run_is_named(tmp_path):
    run = runs.save(make(), {"status": "finished"}, ROWS, root=tmp_path)
    (run.folder / "run.json").write_text(json.dumps({"setting": {"nonsense": 1}}))
    with pytest.raises(runs.StoreError, match="is damaged.*delete that folder"):
        runs.load(run.folder)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    runs.save(make(1), {"status": "finished"}, ROWS, root=tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(runs.StoreError, match="No space left on device; free the disk"):
        runs.save(make(2), {"status": "finished"}, ROWS, root=tmp_path)
    monkeypatch.undo()
    assert len(runs.find(tmp_path)) == 1
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


def _hold(root, diary, seconds):
    def say(word):
        with open(diary, "a", encoding="utf-8") as f:
            f.write(word + "\n")

    with runs.lock(make(), root):
        say("in")
        time.sleep(seconds)
        say("out")


def test_two_processes_take_turns_and_a_dead_one_frees_the_lock(tmp_path):
    context, diary = mp.get_context("fork"), tmp_path / "diary"
    diary.touch()
    first = context.Process(target=_hold, args=(tmp_path, diary, 60))
    first.start()
    while diary.read_text() != "in\n":
        time.sleep(0.01)
    first.kill()  # SIGKILL: no clean-up of its own
    first.join(30)
    with runs.lock(make(), tmp_path):
        assert diary.read_text() == "in\n"
    holders = [context.Process(target=_hold, args=(tmp_path, diary, 0.2)) for _ in range(2)]
    for p in holders:
        p.start()
    for p in holders:
        p.join(30)
    assert diary.read_text().split() == ["in", "in", "out", "in", "out"]


def test_mean_std_is_the_sample_one():
    mean, std = runs.mean_std([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2) and std == pytest.approx(0.1)
    assert math.isnan(runs.mean_std([0.5])[1])


# ------------------------------------------------------------------- records that are not whole


WHOLE = {"status": "finished", "seconds": 1.0, "realised_rate": 0.36, "hardware": "x", "last": 0.7}


@pytest.mark.parametrize("breaks", ["fsync", "rename"])
def test_a_failed_run_stays_until_its_repetition_is_written(tmp_path, monkeypatch, breaks):
    failed = runs.save(make(), {"status": "failed", "why": "nan"}, ROWS[:1], root=tmp_path)
    before = {p: p.read_bytes() for p in failed.folder.iterdir()}
    rename = runs.os.rename

    def full(*names):
        if breaks == "rename" and not str(names[0]).endswith(".tmp"):
            return rename(*names)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, breaks, full)
    with pytest.raises(runs.StoreError, match="earlier runs are untouched"):
        runs.save(make(), WHOLE, ROWS, root=tmp_path)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert list(failed.folder.parent.iterdir()) == [failed.folder]
    assert runs.save(make(), WHOLE, ROWS, root=tmp_path).finished
    assert list(failed.folder.parent.iterdir()) == [failed.folder]


HEADER = "stage,epoch,test,val,loss\n"
FIRST, SECOND, THIRD = "train,1,0.5,0.3,1\n", "train,2,0.8,0.6,1\n", "train,3,0.7,0.55,1\n"


@pytest.mark.parametrize("text, words", [
    (HEADER + FIRST + SECOND, "test accuracies of 2 epochs, run.json says 3"),
    (HEADER + FIRST + SECOND + SECOND, "the last test accuracy is 0.8, run.json says 0.7"),
    (HEADER, "test accuracies of 0 epochs"), ("", "test accuracies of 0 epochs"),
    (HEADER.replace("test", "tset") + FIRST + SECOND + THIRD, "of 0 epochs"),
    (HEADER + FIRST + SECOND + "train,3,x,0.55,1\n", "could not convert string to float: 'x'"),
    (HEADER + FIRST + SECOND + "train,3,0.7\n", "not of one length"),
    (HEADER + FIRST + SECOND + "train,3,0.7,0.55,1,9\n", "not of one length"),
    (HEADER + FIRST + SECOND + "x" * 200_000 + ",3,0.7,0.55,1\n", "field larger than"),
    ("\xff\x00nonsense\n\xfe", "can't decode|NUL|of 0 epochs|of one length"),
])
def test_numbers_that_are_not_whole_are_not_believed(tmp_path, text, words):
    run = runs.save(make(), WHOLE, ROWS, root=tmp_path)
    file = run.folder / "epochs.csv"
    assert file.read_text() == HEADER + FIRST + SECOND + THIRD and runs.load(run.folder).finished
    file.write_bytes(text.encode("latin-1"))
    said = rf"smoke-0-{make().key} is damaged \(epochs.csv: .*({words}).*; delete that folder"
    with pytest.raises(runs.StoreError, match=said):
        runs.load(run.folder)


def test_a_failed_run_may_have_no_epoch(tmp_path):
    assert not runs.save(make(), {"status": "failed"}, [], root=tmp_path).epochs


@pytest.mark.parametrize("name", runs.NEEDED)
def test_a_fact_that_is_missing_is_a_damaged_record(tmp_path, name):
    folder = runs.save(make(), WHOLE, ROWS, root=tmp_path).folder
    facts = json.loads((folder / "run.json").read_text())
    del facts[name]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(runs.StoreError, match=f"run.json is damaged .it has no '{name}'.; delete"):
        runs.load(folder).info[name]


@pytest.mark.parametrize("content", ["[]", "[1]", "null", '{"setting": {"options": []}}', "{",
                                     json.dumps({"setting": {**make().as_dict(), "options": []}})])
def test_a_record_of_another_form_is_damaged(tmp_path, content):
    folder = runs.save(make(), WHOLE, ROWS, root=tmp_path).folder
    (folder / "run.json").write_text(content)
    with pytest.raises(runs.StoreError, match="run.json.*delete that folder"):
        runs.load(folder)


def test_a_folder_without_a_record_is_said_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    s = lab.setting("cross_entropy", epochs=1, max_samples=100)
    (paths.runs_dir() / s.path).mkdir(parents=True)
    monkeypatch.setattr(running, "made", None)
    with pytest.raises(runs.StoreError, match=f"smoke-0-{s.key} has no run.json; delete it"):
        lab.run(s)


def test_what_is_being_written_is_no_run_yet(tmp_path):
    folder = runs.save(make(), WHOLE, ROWS, root=tmp_path).folder
    folder.rename(folder.with_name(f".{folder.name}-123456.tmp"))
    assert runs.find(tmp_path, finished=False) == []
    with pytest.raises(ValueError, match="0 runs match"):
        runs.resolve(make().key, tmp_path)


@pytest.mark.parametrize("name", ["split_seed", "noise_seed", "init_seed"])
def test_seeds_are_what_every_generator_takes(name):
    assert getattr(make(**{name: 2**32 - 1}), name) == 2**32 - 1
    for bad in (2**32, -1):
        with pytest.raises(ValueError, match=f"{name} must be .* from 0 to 4294967295, not {bad}"):
            make(**{name: bad})


@pytest.mark.parametrize("kind", ["symmetric", "drpl-uniform", "dividemix-symmetric"])
def test_the_greatest_seed_draws_labels(kind):
    """The official draws add a seed of their own to it."""
    s = lab.setting("cross_entropy", noise=kind, seed=2**32 - 1, max_samples=100)
    other = dataclasses.replace(s, noise_seed=0)
    given, again, changed = (lab.prepare(x)[0].y_given for x in (s, s, other))
    assert given.equal(again) and not given.equal(changed)
