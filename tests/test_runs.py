"""The store: hashing, whole files, locks, and what happens when the disk says no."""

from __future__ import annotations

import json
import math
import multiprocessing as mp
import time

import numpy as np
import pytest

from noisylabels import runs
from noisylabels.runs import Setting

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
    (dict(budget="huge"), "unknown budget 'huge'; allowed: smoke, laptop, fast, paper"),
    (dict(rate=1.2), "outside \\[0, 1\\]"), (dict(val_fraction=1.0), "outside \\[0, 1\\)")])
def test_a_bad_setting_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        make(**bad)


def test_a_saved_run_reads_back(tmp_path):
    run = runs.save(make(), {"status": "finished", "realised_rate": 0.36}, ROWS,
                    {"p_clean": np.arange(4, dtype=np.float16)}, root=tmp_path)
    assert run.finished and run.setting == make() and run.info["realised_rate"] == 0.36
    assert run.last() == 0.70 and run.best() == 0.80
    assert run.by_validation() == 0.80 and run.mean_last(2) == pytest.approx(0.75)
    assert list(run.epochs["stage"]) == ["train"] * 3
    assert run.signals["p_clean"].tolist() == [0, 1, 2, 3]
    assert runs.find(tmp_path, method="cross_entropy", epochs=3, rate=(0.2, 0.4)) != []
    assert runs.find(tmp_path, method="elr") == []
    assert runs.resolve(make().key, tmp_path).setting == make()
    with pytest.raises(ValueError, match="0 runs match"):
        runs.resolve("nothing-like-it", tmp_path)


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
        with open(diary, "a") as f:
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
