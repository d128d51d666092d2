"""The benchmark: turns, ratios, goals, the file. Nothing here asserts how long a thing takes."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import sys

import pytest
import torch
import torch.nn.functional as F

from noisylabels import __main__ as command
from noisylabels import bench, methods
from noisylabels.bench import kernels, loops, meta_gradient, reference, report, timing, waits
from noisylabels.bench.timing import NEEDS_GPU, NOT_RUN, Bench, Entry, Row
from noisylabels.kernels import views
from noisylabels.training import engine

CPU = torch.device("cpu")
BASELINES = ("cross_entropy", "elr", "gce", "mixup")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder of its own: no data there, and the recorded results stay untouched."""
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    monkeypatch.delenv("NOISYLABELS_DATA", raising=False)
    return tmp_path


def small(**changes) -> Bench:
    told = dict(device=CPU, network="small", batch_size=16, steps=2, warm_up=1, rounds=2,
                size=0.01, say=lambda text: None)
    return Bench(**{**told, **changes})


def asked(monkeypatch, *words: str) -> Bench:
    """The benchmark that the words ask for."""
    seen = []
    monkeypatch.setattr(bench, "measure", lambda b, teaching: seen.append(b))
    assert command.main(["bench", "--device", "cpu", *words]) == 0
    return seen[0]


def strict(text: str):
    """JSON without NaN or Infinity, which the standard does not know."""
    def refuse(word):
        raise AssertionError(f"{word} in the file")

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------------- the whole table


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `noisylabels bench --quick` writes and prints in a folder without any data."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISYLABELS_HOME", str(root))
        patch.delenv("NOISYLABELS_DATA", raising=False)
        patch.setattr(methods, "NAMES", BASELINES)
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *a, **k: printed.append(" ".join(map(str, a))))
        code = command.main(["bench", "--quick", "--device", "cpu", "--batch-size", "16",
                             "--teaching"])
    (file,) = root.rglob("*.json")
    return code, file.relative_to(root), file.read_text(), printed


def test_a_quick_run_makes_the_whole_table(quick):
    code, file, text, printed = quick
    found = strict(text)
    assert code == 0 and file.parts[:3] == ("data", "cache", "bench")
    at = {r["row"]: r for r in found["rows"]}
    wanted = {e.name for some in bench.entries().values() for e in some}
    wanted |= {f"waits_{k}_{m}" for k in ("step", "epoch") for m in BASELINES}
    wanted |= {"parity", "parity_ours", "parity_reference", "teaching", "teaching_seconds"}
    assert set(at) == wanted and len(found["rows"]) == len(wanted)
    assert {r["group"] for r in found["rows"]} == set(bench.GROUPS)
    for r in found["rows"]:
        assert not r["note"].startswith("failed"), r
        assert (r["rounds"] > 0) != (r["note"] == NEEDS_GPU), r
        if r["rounds"]:
            assert r["min"] <= r["median"] <= r["max"] and len(r["values"]) == r["rounds"]
            assert r["unit"] and r["what"]
        else:
            assert r["median"] is None
    assert at["floor"]["rounds"] == 2 and at["ours_graph"]["note"] == NEEDS_GPU
    assert {r["group"] for r in found["derived"]} == {"derived"}
    assert {name for name, *_ in report.RATIOS if "processes" not in name} <= {
        r["row"] for r in found["derived"]}
    facts = found["environment"]
    assert (facts["data"], facts["device"], facts["batch_size"]) == ("made-up images", "cpu", 16)
    assert {"hardware", "versions", "commit", "date", "clock", "minutes"} <= set(facts)
    said = f"instructions: {facts['instructions']}"
    assert facts["instructions"] == engine.instructions()
    assert any(said in block.splitlines() for block in printed)
    assert any(line.startswith("floor ") for block in printed for line in block.splitlines())


def test_a_result_names_no_folder_of_the_machine(quick):
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home|Users|var)/", quick[2])


def test_goals_of_a_gpu_are_not_judged_on_a_cpu(quick):
    found = strict(quick[2])
    verdicts = {g["goal"]: g["verdict"] for g in found["goals"]}
    assert set(verdicts.values()) <= {"met", "missed", "not measured here"}
    for goal in report.goals():
        if goal.where == "cuda":
            assert verdicts[goal.what] == "not measured here", goal
    assert verdicts["waits for the device an epoch"] in ("met", "missed")
    assert verdicts["our step over the bare loop on a CPU"] in ("met", "missed")
    assert verdicts["our loop learns as well as the common style"] in ("met", "missed")


def test_the_baselines_never_wait_within_a_step(quick):
    at = {r["row"]: r["median"] for r in strict(quick[2])["rows"]}
    for method in BASELINES:
        assert at[f"waits_step_{method}"] == 0 and at[f"waits_epoch_{method}"] == 1


# ---------------------------------------------------------------------------------------- turns


def test_entries_take_turns_and_stop_between_rounds_when_the_time_is_up(monkeypatch):
    seen = []

    def entry(name):
        return Entry(name, "", "s", lambda b: lambda: seen.append(name) or len(seen))

    rows = timing.measure(small(rounds=3), "g", [entry(name) for name in "ABC"])
    assert "".join(seen) == "ABCABCABC"
    assert [r.values for r in rows] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
    seen.clear()
    monkeypatch.setattr(Bench, "late", property(lambda self: len(seen) >= 3))
    rows = timing.measure(small(rounds=5), "g", [entry(name) for name in "AB"])
    assert "".join(seen) == "ABAB", "a round that was begun is finished"
    assert {r.note for r in rows} == {"2 of 5 rounds: the time was up"}
    assert timing.measure(small(), "g", [entry("A")])[0].note == NOT_RUN


def test_an_entry_that_fails_is_left_out_and_the_others_go_on():
    seen = []

    def broken():
        seen.append("B")
        raise RuntimeError("no")

    rows = timing.measure(small(rounds=3), "g", [
        Entry("A", "", "s", lambda b: lambda: seen.append("A") or 1.0),
        Entry("B", "", "s", lambda b: broken)])
    assert "".join(seen) == "ABAA"
    assert [r.note for r in rows] == ["", "failed: RuntimeError: no"]


def test_a_short_call_is_said_in_its_unit(monkeypatch):
    monkeypatch.setattr(timing.benchmark.Timer, "blocked_autorange",
                        lambda self, min_run_time: type("M", (), {"median": 0.5}))
    b = small(rounds=1)
    for unit, value in (("s", 0.5), ("ms", 500.0), ("GB/s", 6.0)):
        (row,) = timing.measure(b, "g", [Entry("a", "", unit, lambda b: (lambda: None, 3))])
        assert row.values == [value]


def test_a_step_is_timed_after_its_warm_up(monkeypatch):
    trained, ticks = [], iter([10.0, 16.0])
    monkeypatch.setattr(Bench, "now", property(lambda self: lambda: next(ticks)))
    run = small(steps=3, warm_up=2).a_step(trained.append, first=4)
    assert run() == 2000.0 and trained == [2, 4, 3]


def test_one_thread_of_a_cpu_is_timed_by_its_own_clock():
    assert torch.get_num_threads() > 1 or small().clock == "CPU time of the process"
    assert small().timed("s", lambda: None, 1)() > 0


def test_measuring_a_group_notes_what_is_not_here_and_closes_what_was_opened():
    closed = []

    def good(b):
        b.opened.callback(closed.append, True)
        return lambda: 2.0

    def absent(b):
        import no_such_package  # noqa: F401

    def broken(b):
        raise OSError("cannot read '/somewhere/secret/file' now\nmore")

    b = small(rounds=3, only=("good", "absent", "broken", "gpu"))
    rows = timing.measure(b, "group", [
        Entry("good", "", "s", good), Entry("absent", "", "s", absent),
        Entry("broken", "", "s", broken), Entry("gpu", "", "s", broken, gpu=True),
        Entry("unwanted", "", "s", broken)])
    assert [r.name for r in rows] == ["good", "absent", "broken", "gpu"] and b.rows == rows
    assert rows[0].values == [2.0, 2.0, 2.0] and rows[0].note == "" and closed == [True]
    assert rows[1].note == "needs no_such_package, which is not here"
    assert rows[2].note == "failed: OSError: cannot read ... now"
    assert rows[3].note == NEEDS_GPU and rows[3].median is None


def test_no_minutes_leave_a_file_with_nothing_measured(home, capsys):
    assert command.main(["bench", "--quick", "--device", "cpu", "--minutes", "0", "--out",
                         str(home / "r.json")]) == 0
    found = strict((home / "r.json").read_text())
    assert {r["note"] for r in found["rows"]} <= {NOT_RUN, NEEDS_GPU}
    assert {g["verdict"] for g in found["goals"]} == {"not measured here"}
    assert found["environment"]["data"] == "none"
    assert "written to" in capsys.readouterr().out


def test_an_interrupted_run_writes_what_it_has(home, monkeypatch):
    def stopped(b, *rest):
        b.rows.append(Row("copy", "ceilings", "", "GB/s", [5.0]))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", stopped)
    file = home / "r.json"
    assert command.main(["bench", "--quick", "--device", "cpu", "--out", str(file)]) == 130
    assert strict(file.read_text())["rows"][0]["median"] == 5.0


# ----------------------------------------------------------------------------- rows and ratios


def test_a_row_is_recorded_by_median_and_range():
    record = Row("r", "g", "words", "ms/step", [3.0, 1.0, 2.0, 10.0], "n").record()
    assert record == {"row": "r", "group": "g", "what": "words", "unit": "ms/step", "median": 2.5,
                      "min": 1.0, "max": 10.0, "rounds": 4, "values": [3.0, 1.0, 2.0, 10.0],
                      "note": "n"}
    assert Row("r", "g", "", "s", [math.nan]).record()["median"] is None
    assert Row("r", "g", "", "s").record()["max"] is None


def test_a_ratio_is_taken_within_each_round():
    rows = rows_of(masks_by_sample=(2.0, 6.0, 4.0), masks=(1.0, 2.0))
    (ratio,) = report.derive(rows, small())
    assert (ratio.name, ratio.values) == ("masks_gain", [2.0, 3.0])
    assert report.derive(rows_of(masks=1.0), small()) == []
    (ratio,) = report.derive(rows_of(masks_by_sample=(2.0, 3.0), masks=(0.0, 1.0)), small())
    assert ratio.values == [3.0], "what cannot be divided is no round"


def rows_of(**values) -> list[Row]:
    return [Row(name, "g", "", "", list(v) if isinstance(v, tuple) else [v])
            for name, v in values.items()]


def test_what_follows_from_made_up_times():
    b = small(batch_size=100)
    rows = rows_of(floor=(10.0, 20.0), ours_step=(11.0, 20.0), ours=(12.0, 30.0),
                   reference=(60.0, 60.0), mixture_gauss=(5.0,), mixture_sklearn=(500.0,),
                   views_weak=4.0, pil_weak=0.5, matmul=2.0,
                   waits_step_a=0.0, waits_step_b=0.5, waits_epoch_a=1.0, waits_epoch_b=3.0)
    at = {r.name: r.values for r in report.derive(rows, b)}
    assert at["epoch_floor"] == [5.0, 10.0], "500 steps, nothing besides"
    assert at["epoch_ours"] == pytest.approx([6.005, 15.005])
    assert at["epoch_reference"] == [30.5, 30.5]
    assert at["to_floor_ours"] == [1.2, 1.5] and at["to_floor_ours_step"] == [1.1, 1.0]
    assert at["reference_over_ours"] == pytest.approx([30.5 / 6.005, 30.5 / 15.005])
    flops = loops.operations("small")[1] * 100
    assert at["tflops_floor"] == pytest.approx([flops / 1e10, flops / 2e10])
    assert at["floor_of_matmul"] == pytest.approx([flops / 2e10, flops / 4e10])
    assert at["weak_over_pil"] == [8.0] and "strong_over_pil" not in at
    assert at["waits_step"] == [0.5] and at["waits_epoch"] == [3.0]
    assert "share_beside_steps" not in at and "to_floor_floor" not in at


def test_the_fastest_of_our_loops_and_of_the_floors_counts():
    rows = rows_of(floor=10.0, floor_compiled=8.0, ours=20.0, ours_graph=9.0, reference=36.0,
                   processes_1=10.0, processes_2=12.0, processes_4=16.0)
    at = {r.name: r.values[0] for r in report.derive(rows, small())}
    assert at["to_floor_ours_graph"] == 9 / 8 and at["reference_over_ours"] == 4.0
    assert at["processes_2_gain"] == pytest.approx(2 * 10 / 12)
    assert at["processes_4_gain"] == 2.5
    assert report.derive([], small()) == []


def test_operations_of_the_networks_are_the_published_counts():
    giga = {"preact18": (1.111, 3.329), "resnet34": (2.319, 6.953), "wrn28-2": (0.429, 1.285),
            "resnet9": (0.759, 2.272)}
    for name, expected in giga.items():
        found = [n / 1e9 for n in loops.operations(name)]
        assert found == pytest.approx(expected, rel=1e-3), name
    forward, both = loops.operations("small")
    stem = 2 * 32 * 32 * 9 * 3 * 16  # its input needs no gradient: two passes instead of three
    assert both == 3 * forward - stem


# ----------------------------------------------------------------------------------------- goals


@pytest.mark.parametrize("value, sense, bound, verdict", [
    (1.0, "<=", 1.0, "met"), (1.01, "<=", 1.0, "missed"), (1.0, ">=", 1.0, "met"),
    (0.99, ">=", 1.0, "missed"), (None, ">=", 1.0, "not measured here")])
def test_a_goal_is_met_missed_or_not_measured(value, sense, bound, verdict):
    rows = [] if value is None else rows_of(a=value)
    found = report.Goal("g", ("a",), sense, bound, "any").verdict(rows, small())
    assert found == {"goal": "g", "sense": sense, "must": bound, "value": value,
                     "verdict": verdict}


def test_goals_know_where_and_for_what_they_hold():
    goal = report.Goal("g", ("a", "b"), "<=", 2.0, "cpu")
    assert goal.verdict(rows_of(a=3.0, b=1.5), small())["verdict"] == "met", "the best counts"
    for other in (report.Goal("g", ("a",), "<=", 2.0),
                  report.Goal("g", ("a",), "<=", 2.0, "cpu", {"network": "preact18"})):
        found = other.verdict(rows_of(a=0.5), small())
        assert found["verdict"] == "not measured here" and found["value"] is None
    special = report.Goal("g", ("a",), ">=", 0.4, "any", {"network": "small"})
    assert special.verdict(rows_of(a=0.5), small())["verdict"] == "met"


def test_what_is_no_number_is_not_judged():
    for goal in (report.Goal("g", ("parity",), "<=", 1.0, "any"), report.PARITY):
        b = small(rows=[Row("parity", "parity", "", "share", [math.nan], "within")])
        found = goal.verdict(b.rows, b)
        assert (found["value"], found["verdict"]) == (None, "not measured here")


def test_what_follows_for_the_meta_gradient():
    found = {r.name: r.values for r in report.derive(rows_of(
        meta_shared=10.0, meta_forward=16.0, meta_double=22.0, meta_kept_memory=40.0,
        meta_forward_memory=50.0, meta_double_memory=80.0), small())}
    assert found["meta_gradient_time"] == [0.5] and found["meta_gradient_memory"] == [0.25]
    assert found["meta_step_time"] == [16 / 22] and found["meta_step_memory"] == [50 / 80]
    alone = report.derive(rows_of(meta_forward=16.0, meta_double=22.0), small())
    assert [r.name for r in alone] == ["meta_step_time"]
    goals = {g.row: g for g in report.goals()}
    assert goals["meta_gradient_time",].must == 0.65 and goals["meta_gradient_memory",].must == 0.5


def test_both_routes_to_the_meta_gradient_agree_and_one_takes_less_memory():
    problem = meta_gradient.Problem(small())
    ours, exact = meta_gradient.forward_mode(problem), meta_gradient.double_backward(problem)
    for mine, theirs in zip(ours, exact, strict=True):
        assert (mine - theirs).abs().max() <= 1e-3 * theirs.abs().max()  # float32
    peak = {r: meta_gradient.peak_bytes(lambda r=r: r(problem), CPU) for r in (
        meta_gradient.kept, meta_gradient.forward_mode, meta_gradient.double_backward)}
    assert 0 < peak[meta_gradient.kept] < peak[meta_gradient.forward_mode]
    assert peak[meta_gradient.forward_mode] < 0.9 * peak[meta_gradient.double_backward]
    thousand = meta_gradient.peak_bytes(lambda: torch.ones(1000), CPU)
    assert thousand == 4000, "bytes are counted exactly"


def test_another_part_is_added_by_appending_it(monkeypatch):
    part = Entry("mask", "attention masks", "ms", lambda b: (lambda: None, 1), must=("<=", 5.0))
    monkeypatch.setattr(kernels, "KERNELS", kernels.KERNELS[:])
    monkeypatch.setattr(report, "KERNELS", kernels.KERNELS)
    kernels.KERNELS.append(part)
    assert "mask" in {e.name for e in bench.entries()["kernels"]}
    assert report.goals()[-1].row == ("mask",)
    bench.measure(b := small(only=("mask",)))
    assert b.rows[0].median > 0


def test_parity_allows_what_chance_explains_and_no_more():
    difference, allowed = reference.verdict([0.80, 0.82], [0.81, 0.83], 10_000)
    assert difference == pytest.approx(-0.01)
    assert allowed == pytest.approx(2 * math.sqrt(2 * 0.0002 / 2))
    assert reference.verdict([0.9], [0.9], 10**9)[1] == 0.01
    _, allowed = reference.verdict([0.5], [0.5], 100)
    assert allowed == pytest.approx(2 * math.sqrt(0.25 / 100 * 2))
    with pytest.raises(ValueError, match="at least one accuracy"):
        reference.verdict([], [0.5], 10)
    for note, verdict in (("within the 1.2 points that", "met"), ("beyond the", "missed")):
        b = small(rows=[Row("parity", "parity", "", "share", [0.01], note)])
        assert report.content(b, {})["goals"][-1]["verdict"] == verdict
    assert report.content(small(), {})["goals"][-1]["verdict"] == "not measured here"


# ------------------------------------------------------------------------------ file and words


def test_the_file_is_replaced_whole_or_not_at_all(home, monkeypatch):
    file = home / "deep" / "r.json"
    report.write(file, {"a": 1})
    with pytest.raises(ValueError):
        report.write(file, {"a": math.nan})

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", full)
    with pytest.raises(OSError, match="could not write r.json: No space left.*--out"):
        report.write(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [f.name for f in file.parent.iterdir()] == ["r.json"]


def test_results_are_read_back_newest_first(home):
    assert report.load() == []
    for name, date in (("a", "2026-01-01"), ("b", "2026-03-01")):
        report.write(home / f"data/bench/{name}.json", {
            "environment": {"date": date}, "rows": [], "derived": [], "goals": []})
    assert [r["environment"]["date"] for r in report.load()] == ["2026-03-01", "2026-01-01"]
    (home / "data/bench/c.json").write_text("{}")
    with pytest.raises(ValueError, match="c.json is damaged"):
        report.load()


@pytest.mark.parametrize("value, text", [
    (None, "–"), (0.0, "0"), (3.0, "3"), (788.4, "788"), (4.306, "4.31"), (0.003123, "0.00312"),
    (12345.6, "12,346"), (2.5e-9, "2.50e-09"),
    (-0.0279, "-0.0279")])
def test_numbers_are_said_in_three_digits(value, text):
    assert report.number(value) == text


def test_the_file_is_named_after_the_hardware(home):
    def name(hardware):
        return report.default_file(hardware, True).name

    assert name("NVIDIA H200") == "nvidia-h200.json" and name("()") == "unknown.json"
    assert name("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz, 1 thread") == (
        "intel-xeon-gold-6130-1-thread.json")
    assert report.default_file("A b", True) == home / "data" / "bench" / "a-b.json"
    assert report.default_file("A b", False) == home / "data" / "cache" / "bench" / "a-b.json"


# ------------------------------------------------------------------------------------- arguments


def test_defaults_of_a_cpu_run(home, monkeypatch):
    b = asked(monkeypatch)
    assert (b.network, b.batch_size, b.rounds, b.only) == ("small", 128, 5, ())
    assert (b.steps, b.warm_up, b.size, b.until) == (10, 2, 1.0, math.inf)
    assert b.precision == ("bfloat16" if engine.has_bfloat16("cpu") else "float32")
    b = asked(monkeypatch, "--minutes", "2", "--only", "copy, loops", "--quick", "--rounds", "7")
    assert not b.late and b.until < math.inf
    assert (b.only, b.rounds, b.steps) == (("copy", "loops"), 7, 2)


@pytest.mark.parametrize("words, message", [
    (("--network", "resnet99"), "unknown network 'resnet99'"),
    (("--only", "flor"), "unknown row 'flor' (nearest: 'floor'); groups: ceilings"),
    (("--batch-size", "2"), "--batch-size: a whole number from 8 to 100000 is needed, not '2'"),
    (("--batch-size", "10000000"), "--batch-size: a whole number from 8 to 100000"),
    (("--only", ""), "--only names no row; groups: ceilings"), (("--only", ","), "names no row"),
    (("--rounds", "0"), "--rounds: a whole number from 1 to 100000 is needed, not '0'"),
    (("--device", "tpu"), "unknown device 'tpu'")])
def test_a_bad_argument_is_one_sentence(home, capsys, words, message):
    assert command.main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_only_the_wanted_rows_are_measured(home):
    b = small(only=("copy", "kernels", "waits_step_gce"))
    assert b.wants("copy", "ceilings") and not b.wants("matmul", "ceilings")
    assert b.wants("neighbours", "kernels") and not b.wants("floor", "loops")
    bench.measure(small_only := small(only=("copy",)))
    assert [r.name for r in small_only.rows] == ["copy"]


# ----------------------------------------------------------------------------------- the loops


def test_both_loops_do_the_same_work():
    """One batch, the same weights: equal losses kept, equal weights afterwards."""
    data = loops.made_up(64, 10)
    s = engine.Recipe(network="small", batch_size=16, lr=0.1, momentum=0.9, weight_decay=5e-4)
    mine = loops.ours(data, s, engine.Execution("cpu"), seed=3)
    other = reference.common(data, s, CPU, 0, seed=3)
    task = loops.task(data, engine.Execution("cpu"), "float32")
    for k in range(3):
        i = torch.arange(16) + 16 * k
        x = task.normalise(data.x_train[i])
        mine.step(i, x)
        other.step(x.contiguous(), data.y_train[i], i)
    torch.testing.assert_close(mine.losses, other.losses, rtol=1e-4, atol=1e-5)
    assert (mine.losses[:48] > 0).all() and (mine.losses[48:] == 0).all()
    for a, b in zip(mine.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_round_is_one_pass_over_its_images():
    data = loops.made_up(48, 10)
    s = engine.Recipe(network="small", batch_size=16, lr=0.01)
    for loop in (loops.ours(data, s, engine.Execution("cpu")), reference.common(data, s, CPU, 0)):
        loop.train(3)
        assert (loop.losses > 0).all()
        loop.train(2)  # another pass begins
    ready = loops.ours(data, s, engine.Execution("cpu"), ready=True)
    first = next(ready.stream)
    ready.train(2)
    assert next(ready.stream) is first, "three batches lie ready and take turns"
    fast = reference.common(data, s, CPU, 0, fast=True)
    fast.train(1)
    assert fast.net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.isfinite(p).all() for p in fast.net.parameters())


def test_several_seeds_train_side_by_side_and_end():
    b = small()
    rows = timing.measure(b, "g", [Entry("two", "", "ms/step", lambda b: loops.processes(b, 2))])
    assert rows[0].note == "" and len(rows[0].values) == 2 and min(rows[0].values) > 0
    assert multiprocessing.active_children() == []
    rows = timing.measure(small(network="nothing"), "g", [
        Entry("one", "", "ms/step", lambda b: loops.processes(b, 1))])
    assert rows[0].note.startswith("failed: ValueError: unknown network 'nothing'")


def test_made_up_images_have_classes_to_learn():
    one, two = loops.made_up(200), loops.made_up(200)
    assert torch.equal(one.x_train, two.x_train) and one.x_train.dtype == torch.uint8
    assert not torch.equal(one.x_train, loops.made_up(200, seed=1).x_train)
    means = torch.stack([one.x_train[one.y_train == c].float().mean(0) for c in range(10)])
    guess = torch.cdist(one.x_test.float().flatten(1), means.flatten(1)).argmin(1)
    assert (guess == one.y_test).float().mean() > 0.9


def test_images_are_real_where_they_are_at_hand(home, monkeypatch):
    b = small()
    assert loops.images(b, 30).name == b.data == "made-up images"
    real = loops.made_up(20)
    monkeypatch.setattr(loops, "load", lambda name: real)
    found = loops.images(b, 30, 5)
    assert b.data == "CIFAR-10" and len(found.x_train) == 30 and len(found.x_test) == 5
    assert torch.equal(found.x_train[20:], real.x_train[:10]), "what is short is repeated"


def test_what_is_not_installed_is_said(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)

    def absent():
        raise ModuleNotFoundError("not installed", name="torchvision")

    monkeypatch.setattr(reference.torchvision_guard, "import_torchvision", absent)
    bench.measure(b := small(only=("mixture_sklearn", "pil_weak")))
    assert {r.name: r.note for r in b.rows} == {
        "mixture_sklearn": "needs sklearn.mixture, which is not here",
        "pil_weak": "needs torchvision, which is not here"}


def test_both_mixtures_of_the_table_say_nearly_the_same():
    x = kernels.losses(2_000)
    from noisylabels.kernels import mixtures

    ours = mixtures.fit_gaussians(mixtures.normalise(x)[0]).p_low
    theirs = torch.from_numpy(reference.fit_mixture(x))
    assert ((ours > 0.5) == (theirs > 0.5)).float().mean() > 0.99


# ---------------------------------------------------------------------------------------- waits


def task_of(n: int = 32) -> engine.Task:
    data = loops.made_up(n, 1)
    return loops.task(data, engine.Execution("cpu"), "float32")


def test_waits_are_counted_where_they_happen():
    task = task_of()
    x = torch.arange(5.0)
    with waits.counted(CPU) as count:
        for i, _ in task.batches(16):
            x[0].item()
            x[x > 2]
            x[i[:2] % 5]  # by numbers: no wait
            task.y_given[i]
        x.tolist(), x.numpy(), x.cpu(), x.nonzero(), bool(x[0] == 0)
        x.index_put((x > 2,), torch.zeros(()))
        F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
        F.one_hot(i % 3, 3), F.one_hot(i % 3, num_classes=3)  # checks its labels on a CPU alone
    assert count.steps == 2 and count.in_steps == 4 and count.elsewhere == 6
    x.tolist()
    assert count.elsewhere == 6, "nothing is counted any more"


def test_a_one_hot_that_has_to_look_for_the_largest_label_waits():
    with waits.counted(CPU) as count:
        F.one_hot(torch.tensor([0, 2]))
    assert count.elsewhere >= 1 and count.deaf == 0


def test_an_interrupted_loop_over_batches_is_not_counted_on():
    task = task_of()
    with waits.counted(CPU) as count:
        for _ in task.batches(16):
            break
        torch.zeros(1).item()
    assert (count.in_steps, count.elsewhere, count.depth) == (0, 1, 0)


def test_a_wait_in_a_step_of_a_method_is_found_and_placed(monkeypatch):
    module = methods.get("cross_entropy")
    plain = module.objectives.cross_entropy

    def with_a_read(z, y):
        loss = plain(z, y)
        float(loss.detach())
        return loss

    monkeypatch.setattr(module.objectives, "cross_entropy", with_a_read)
    found = waits.of_method("cross_entropy", CPU, epochs=2)
    assert found.step == 1 and found.epoch == 1 and found.epochs == 2
    assert any(w.startswith("_local_scalar_dense at cross_entropy.py:") for w in found.where)


def test_views_of_the_table_are_the_methods_own(home):
    call, epochs = kernels._view(views.Weak())(small())
    assert epochs == 20 / 50_000 and call().shape == (20, 3, 32, 32)


@pytest.mark.parametrize("where", ["closed", "file"])
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_timed(
        tmp_path, monkeypatch, where):
    from noisylabels.bench import report

    (tmp_path / "file").write_text("x", encoding="utf-8")
    if where == "closed":
        (tmp_path / "closed").mkdir()
        monkeypatch.setattr(report.os, "access", lambda path, mode: path.name != "closed")
    with pytest.raises(ValueError, match="cannot be written: .*is no folder that may be written"):
        report.check_target(tmp_path / where / "deeper" / "result.json")
    monkeypatch.undo()
    report.check_target(tmp_path / "new" / "result.json")
