"""The desk budget: what it keeps of single samples, how often it looks, in which order it runs."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from conftest import REPO, checkpoint
from noisylabels import __main__ as cli
from noisylabels import lab, methods, paths
from noisylabels.methods import cross_entropy_averaged
from noisylabels.reproduce import planning
from noisylabels.training import engine, networks, recorder, runs
from noisylabels.training.recorder import Losses, Recorder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


def at_desk(method="cross_entropy", noise="symmetric", rate=0.4, **changes):
    return lab.setting(method, "cifar10", noise, rate, "desk", **changes)


# ---------------------------------------------------------------------------- what is kept


def test_a_byte_holds_a_loss_to_two_and_a_half_per_cent():
    losses = torch.logspace(-4, math.log10(20), 5_000)
    kept = Losses()
    kept.add(losses)
    read = Losses.read(kept.kept(len(losses)))[0]
    assert np.abs(read / losses.numpy() - 1).max() < 0.0245
    # the ends, and what lies beyond them: 1.0 is ln(1e4)/ln(2e5) of the way, byte 192
    kept.add(torch.tensor([0.0, 1e-9, 1e-4, 1.0, 20.0, 500.0]))
    assert kept._rows[-1].tolist() == [0, 0, 0, 192, 255, 255]


@pytest.mark.parametrize("epochs, samples, first, apart", [
    (64, 9_000, 1, 1),  # 576,000 bytes
    (129, 9_000, 1, 2),  # 1,161,000 bytes are too many: every second epoch, the last among them
    (300, 9_000, 3, 3),
])
def test_epochs_are_thinned_out_until_they_fit(epochs, samples, first, apart):
    left = Losses.epochs(epochs, samples)
    assert left[0] == first and left[-1] == epochs and set(np.diff(left)) <= {apart}
    assert len(left) * samples <= Losses.MOST < (len(left) * 2 + 1) * samples
    assert Losses.epochs(0, samples) == []


def recorded(task, truth, folder=None, **changes):
    return Recorder(task, truth, folder, history=True, every=2, features_at=(2,), **changes)


def test_every_loss_is_kept_and_a_resumed_run_keeps_the_same(home, tmp_path):
    s = lab.setting("cross_entropy", rate=0.4, epochs=12, max_samples=300)
    task, truth = lab.prepare(s)
    seen = []
    whole = recorded(task, truth, watch=lambda e, log: seen.append(
        engine.losses(log.networks[0], log.task)))
    methods.get(s.method).train(task, lab.settings_of(s), whole)
    kept = whole.signals()
    np.testing.assert_allclose(Losses.read(kept["losses"]), torch.stack(seen).clamp(1e-4, 20),
                               rtol=0.025)
    assert kept["losses"].shape == (12, len(task))
    # test and validation images: after every second epoch and the last ten
    assert [math.isnan(row["test"]) for row in whole.rows] == [True] + 11 * [False]
    assert [math.isnan(row["val"]) for row in whole.rows] == [True] + 11 * [False]
    assert lab.summary(whole)["best"] == max(row["test"] for row in whole.rows[1:])

    class Killed(Exception):
        pass

    def kill(epoch, log):
        if epoch == 5:
            raise Killed

    begun = recorded(*lab.prepare(s), tmp_path / "c", watch=kill)
    with pytest.raises(Killed):
        methods.get(s.method).train(begun.task, lab.settings_of(s), begun)
    again = recorded(*lab.prepare(s), tmp_path / "c")
    methods.get(s.method).train(again.task, lab.settings_of(s), again)
    assert again.resumed_at == 5
    for name, values in kept.items():
        np.testing.assert_array_equal(again.signals()[name], values, err_msg=name)


@pytest.mark.parametrize("losses", [
    None, torch.zeros(2, 7, dtype=torch.uint8), torch.zeros(1, 270, dtype=torch.uint8),
    torch.zeros(2, 270), [1, 2]])
def test_a_checkpoint_without_its_losses_is_refused_in_words(home, tmp_path, losses):
    s = lab.setting("cross_entropy", rate=0.4, epochs=2, max_samples=300)
    first = recorded(*lab.prepare(s), tmp_path / "c")
    methods.get(s.method).train(first.task, lab.settings_of(s), first)
    file = tmp_path / "c" / "block-0.pt"
    held = torch.load(file, weights_only=True)
    assert held["losses"].shape == (2, 270)
    torch.save({k: v for k, v in {**held, "losses": losses}.items() if v is not None}, file)
    again = recorded(*lab.prepare(s), tmp_path / "c")
    with pytest.raises(runs.StoreError, match="lacks what this run keeps: the losses of each of "
                       "its 270 samples after each of 2 epochs"):
        methods.get(s.method).train(again.task, lab.settings_of(s), again)


def test_a_desk_run_never_began_without_signals(home):
    """It keeps them always, so `--signals` has nothing to say of it and `--again` nothing to drop.
    """
    for s, lacks in ((at_desk(), False), (lab.setting("cross_entropy"), True)):
        folder = lab.checkpoints_of(s)
        folder.mkdir(parents=True)
        torch.save(checkpoint(3, 9), folder / "block-0.pt")
        assert lab.lacks_losses(s) is lacks


def test_features_are_principal_components_in_bytes(home):
    s = lab.setting("cross_entropy", rate=0.4, epochs=2, max_samples=300)
    task, truth = lab.prepare(s)
    log = recorded(task, truth)
    net = methods.get(s.method).train(task, lab.settings_of(s), log)
    kept = log.signals()["features-2"]
    assert kept.shape == (recorder.FEATURES, len(task)) and kept.dtype == np.uint8
    features = engine.outputs(net, task, features=True)[1].double().numpy()
    exact = PCA(recorder.FEATURES, svd_solver="full").fit_transform(features).T
    unit = np.abs(exact).max() / 127
    mine = kept.astype(float) - 128
    signs = np.sign((mine * exact).sum(1, keepdims=True))
    assert np.abs(signs * mine * unit - exact).max() <= 0.51 * unit


def test_a_record_without_every_test_number_is_believed_only_where_it_says_so(home, capsys):
    rows = [{"stage": "train", "epoch": k, "loss": 1.0, "test": t, "val": math.nan,
             "seconds": 1.0, "seconds_evaluating": 0.0}
            for k, t in enumerate((math.nan, 0.4, math.nan, 0.5), 1)]
    facts = {"status": "finished", "epochs": 4, "last": 0.5, "samples": 3}
    with pytest.raises(runs.StoreError, match="test must be a number in every epoch"):
        runs.save(at_desk(), facts, rows)
    run = runs.save(at_desk(seed=1), {**facts, "losses_of": [2, 4]}, rows)
    assert (run.last(), run.best(), run.mean_last()) == (0.5, 0.5, 0.45)
    rows[-1]["test"] = math.nan
    # the best epoch and the course are told of the epochs that were looked at
    assert cli.main(["runs", "show", run.setting.key]) == 0
    said = capsys.readouterr().out  # first, last, least, greatest
    assert re.search(r"^test +40.00 +50.00 +40.00 +50.00$", said, re.M)
    assert re.search(r"best on test +50.00 %, epoch 4;", said)
    with pytest.raises(runs.StoreError, match="the last test accuracy is no number"):
        runs.save(at_desk(seed=2), {k: v for k, v in facts.items() if k != "last"}
                  | {"losses_of": [2, 4]}, rows)


def test_what_a_desk_run_keeps():
    kept = lab.kept_of(at_desk(), 64)
    assert kept == {"losses_at": (64,), "history": True, "every": 4,
                    "features_at": (3, 6, 16, 32, 48, 64)}
    assert lab.kept_of(at_desk("mixnn"), 64)["features_at"] == ()
    assert lab.kept_of(lab.setting("gce"), 30, False) == {"losses_at": (), "every": 1}


# ------------------------------------------------------------------------------- the setting


@pytest.mark.parametrize("isa, there, expected", [
    ("AVX2", "", "float32"), ("AVX512", "", "float32"),
    ("AVX512", "AVX512_BF16", "bfloat16"), ("AVX512", "AVX512_BF16 AMX", "bfloat16"),
    ("AVX2", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_AMX", "float32"),
])
def test_bfloat16_only_where_the_processor_multiplies_in_it(home, monkeypatch, isa, there,
                                                            expected):
    monkeypatch.setattr(engine, "instructions", lambda: f"{isa} {there}".strip())
    s = lab.setting("cross_entropy", epochs=1, precision="auto")
    assert lab.prepare(s)[0].precision == expected
    plain = lab.setting("cross_entropy", epochs=1)
    assert lab.prepare(plain)[0].precision == "float32"


@pytest.mark.parametrize("method", methods.NAMES)
def test_no_method_costs_more_than_six_times_cross_entropy(method):
    """By the passes of its step where they are counted; a warm-up of two networks costs two."""
    from noisylabels.lab import cost

    s = at_desk(method)
    base = at_desk().options["epochs"]
    factor = getattr(methods.get(method), "COST", cost.FACTORS.get(method, 1.0))
    epochs = lab.total_epochs(s, lab.images(s).train)
    warm = s.options["warm_up"] if method in ("dividemix", "sanm") else 0
    assert (2 * warm + factor * (epochs - warm)) / base <= 6
    assert s.options["network"] == "resnet8" and s.options["nesterov"]


def test_sanm_and_its_host_have_equal_epochs():
    assert at_desk("sanm").options["epochs"] == at_desk("dividemix").options["epochs"] == 20
    s = at_desk("mixnn").options  # ends of cycles are epochs after which test images are seen
    assert s["period"] % lab.BUDGETS["desk"].every == 0 and s["start_epoch"] % s["period"] == 0


# --------------------------------------------------------------------------- the averaged row


def test_the_averaged_row_answers_with_the_average(home):
    s = lab.setting("cross_entropy_averaged", rate=0.4, epochs=2, max_samples=300, average=0.9)
    task, truth = lab.prepare(s)
    log = Recorder(task, truth)
    answer = cross_entropy_averaged.train(task, lab.settings_of(s), log)
    assert log.networks == [answer] and not any(p.requires_grad for p in answer.parameters())

    # decay 0: the answer is the network itself, so on weak views it is plain cross entropy
    alone = lab.setting("cross_entropy_averaged", rate=0.4, epochs=2, max_samples=300,
                        average=0.0, view="weak")
    plain = lab.setting("cross_entropy", rate=0.4, epochs=2, max_samples=300)
    one, two = lab.run(alone), lab.run(plain)
    np.testing.assert_array_equal(one.epochs["loss"], two.epochs["loss"])
    np.testing.assert_array_equal(one.epochs["test"], two.epochs["test"])


# ---------------------------------------------------------------------------------- the plan


@pytest.fixture
def everything(monkeypatch):
    """The project's own plan, as where all data are."""
    monkeypatch.setenv("NOISYLABELS_HOME", str(REPO))
    monkeypatch.setattr(planning.noise, "absent", lambda *_: "")


def test_the_plan_holds_every_method_and_three_seeds(everything):
    chosen = planning.select_plan("desk", 3)
    assert len(chosen.settings) == len({s.key for s in chosen.settings})
    with open(paths.plans_dir() / "desk.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [int(r["step"]) for r in rows] == sorted(int(r["step"]) for r in rows)
    full = {(r["dataset"], r["noise"], r["rate"]) for r in rows if r["methods"] == "all"}
    assert len(full) == 8
    # 8 cells of all methods, cross entropy without noise and at 60 %, 3 arms of SANM, 2 of MixNN
    assert len(chosen.settings) == 3 * (8 * len(methods.NAMES) + 2 + 3 + 2)
    assert Counter(s.split_seed for s in chosen.settings) == dict.fromkeys(
        (0, 1, 2), len(chosen.settings) // 3)
    assert len(planning.select_plan("desk", 1).settings) == len(chosen.settings) // 3


def test_the_plan_goes_by_steps_and_one_seed_first(everything, monkeypatch):
    monkeypatch.setattr(planning.Estimates, "of", lambda self, s: planning.Cost(60, 1))
    monkeypatch.setattr(runs, "scan", lambda: ([], []))
    monkeypatch.setattr(planning.lab, "epochs_begun", lambda s: 0)
    chosen = planning.select_plan("desk", 3)
    plan = planning.make(chosen, planning.Estimates(engine.Execution("cpu")))
    order = [(t.group.due[t.setting], t.setting.split_seed) for t in plan.todo]
    assert order == sorted(order)
    first = [t.setting for t in plan.todo[:6]]
    assert {s.method for s in first} == {"cross_entropy"}
    assert [s.noise for s in first] == 3 * ["none", "symmetric"]
    assert {s.noise for s in (t.setting for t in plan.todo[6:6 + len(methods.NAMES)])} == {
        "human-worse"}


def test_filters_of_the_plan(everything):
    chosen = planning.select_plan("desk", 2, method=["sanm"], dataset=["cifar10"])
    assert {s.method for s in chosen.settings} == {"sanm"}
    assert {s.options["branches"] for s in chosen.settings} == {"max+min", "off", "plain",
                                                                "random"}
    arm = next(g for g in chosen.groups if g.settings[0].options["branches"] == "off")
    assert arm.name == "sanm, cifar10, symmetric 40 %, branches=off"
    assert [*arm.due.values()] == [11, 11]


def test_the_plan_of_the_digits_is_of_twenty_seeds_and_its_old_runs_count(everything):
    """The three recorded seeds of each arm are those of the plan: none is trained anew."""
    chosen = planning.select_plan("digits", None)
    assert {len(g.settings) for g in chosen.groups} == {20}
    assert {g.settings[0].budget for g in chosen.groups} == {"smoke"}
    recorded = {r.setting.key for r in runs.find(budget="smoke")}
    begun = [g for g in chosen.groups if any(s.key in recorded for s in g.settings)]
    new = {g.settings[0].method for g in chosen.groups if g not in begun}
    assert new <= {"cross_entropy_averaged"}
    assert planning._seeds_of("0-3 7") == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("words, said", [
    (("--plan", "desks"), "there is no plan 'desks'"),
    (("--plan", "digits", "--budget", "laptop"), "is of the smoke budget, not laptop"),
    (("--plan", "digits", "--paper", "mixnn"), "goes by steps and not by papers"),
    (("--budget", "desk", "--paper", "mixnn"), "goes by steps and not by papers"),
    (("--plan", "desk", "--dataset", "digits"), "digits are run by the smoke"),
])
def test_a_plan_that_cannot_be_is_refused(everything, capsys, words, said):
    from noisylabels.__main__ import main

    assert main(["reproduce", *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_without_data_the_plan_says_what_is_missing(home, monkeypatch):
    monkeypatch.setattr(paths, "plans_dir", lambda: REPO / "data" / "plans")
    monkeypatch.delenv("NOISYLABELS_DATA", raising=False)
    chosen = planning.select_plan("desk", 1)
    assert not chosen.groups and set(chosen.left_out) == {planning.NO_DATA}


def test_the_network_of_the_desk():
    net = networks.build("resnet8", 10)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert [tuple(t.shape[1:]) for t in net.taps(x)] == [
        (32, 16, 16), (32, 16, 16), (96, 8, 8), (256, 4, 4)]
    # stem 3*32*16, blocks (9 c_in c_out + 9 c_out^2, 1x1 where the shape changes), norms, head
    by_hand = (3 * 32 * 16 + 2 * 9 * 32 * 32 + 9 * 32 * 96 + 9 * 96 * 96 + 32 * 96
               + 9 * 96 * 256 + 9 * 256 * 256 + 96 * 256
               + 2 * (3 * 32 + 3 * 96 + 3 * 256) + 2570)
    assert sum(p.numel() for p in net.parameters()) == by_hand == 974_090


def test_the_table_of_schedules_in_the_book_is_that_of_the_code():
    text = (REPO / "book" / "reproduce.md").read_text("utf-8")
    at = {m: at_desk(m).options for m in methods.NAMES}
    for row in (
        "cross entropy, mixup, GCE, ELR, L2R, CE with trusted | {cross_entropy[epochs]}",
        "CE, strong views, averaged | {cross_entropy_averaged[epochs]} | RandAugment with cutout, "
        "weights averaged at {cross_entropy_averaged[average]}",
        "MixNN | {mixnn[epochs]} | cycles of {mixnn[period]}; mixup from epoch {mixnn[warm_up]}, "
        "neighbours after {mixnn[start_epoch]}; targets keep {mixnn[momentum_target]}",
        "forward correction | {forward_correction[epochs]} | "
        "{forward_correction[estimate_epochs]} of them",
        "dynamic bootstrapping | {dynamic_bootstrapping[epochs]} | mixup alone up to "
        "{dynamic_bootstrapping[warm_up]}",
        "joint optimisation | {joint_optimisation[relabel_epochs]} + {joint_optimisation[epochs]} "
        "| relabels from epoch {joint_optimisation[relabel_from]}",
        "DRPL | {drpl[relabel_epochs]} + {drpl[split_epochs]} + {drpl[epochs]} | relabels from "
        "epoch {drpl[relabel_from]}",
        "IEG, MixMatch | {ieg[epochs]} |",
        "DivideMix | {dividemix[epochs]} | {dividemix[warm_up]} of warm-up, ramp of "
        "{dividemix[ramp]}",
        "SANM | {sanm[epochs]} | {sanm[warm_up]} of warm-up, ramp of {sanm[ramp]}",
    ):
        assert f"| {row.format(**at)}" in text, row


def test_ratios_of_epochs_are_taken_within_pairs():
    from noisylabels.lab import cost

    def made(method, seconds, seed=0, hardware="A", **more):
        return runs.Run(at_desk(method, seed=seed, **more), {
            "status": "finished", "seconds_per_epoch": seconds, "hardware": hardware,
            "threads": 1}, {})

    found = cost.over_cross_entropy([
        made("cross_entropy", 2.0), made("cross_entropy", 4.0, seed=1),
        made("mixnn", 3.0), made("mixnn", 8.0, seed=1), made("mixnn", 50.0, seed=2),
        made("mixnn", 9.0, hardware="B"), made("gce", 5.0, network="small"),
        made("sanm", 44.0)])
    assert {m: sorted(v) for m, v in found.items()} == {"mixnn": [1.5, 2.0], "sanm": [22.0]}
    assert cost.factor_of("sanm") == 22 and cost.factor_of("l2r") is None
    assert cost.factor_of("dynamic_bootstrapping") == 2


# ----------------------------------------------------------------------------- a plan of one's own


HEAD = "step,budget,dataset,noise,rate,methods,options,seeds,why\n"
ROW = "1,smoke,digits,symmetric,0.4,gce,epochs=2,0 1,because"


@pytest.fixture
def own(home):
    """Writes a plan of one's own, `mine`."""
    (home / "data" / "plans").mkdir(parents=True)
    (home / "data" / "published").symlink_to(REPO / "data" / "published")
    file = home / "data" / "plans" / "mine.csv"
    return lambda content: file.write_bytes(
        content if isinstance(content, bytes) else content.encode())


def test_a_plan_of_ones_own_is_read(own):
    own("\ufeff" + HEAD + ROW
        + "\n\n2,smoke,digits,none,0,gce elr,epochs=2 max_samples=200,3-4,\n")
    chosen = planning.select_plan("mine", None)
    assert [(s.method, s.seed, s.max_samples) for s in chosen.settings] == [
        ("gce", "0", None), ("gce", "1", None), ("gce", "3", 200), ("gce", "4", 200),
        ("elr", "3", 200), ("elr", "4", 200)]
    assert [[*g.due.values()] for g in chosen.groups] == [[1, 1], [2, 2], [2, 2]]
    assert {s.rate for s in chosen.settings} == {0.4, 0.0} and {
        s.options["epochs"] for s in chosen.settings} == {2}


@pytest.mark.parametrize("content, said", [
    ("", "has no column 'step'; its first line must name step, budget, dataset, noise, rate, "
     "methods, options, seeds, parted by commas."),
    (HEAD, "has no line below its first"),
    (HEAD.replace("rate,", "") + ROW, "has no column 'rate'"),
    (HEAD + ROW.replace("gce", "gze"), "line 2: unknown method 'gze' (nearest: 'gce'); allowed: "),
    (HEAD + ROW.replace("gce", ""), "line 2: unknown method ''; allowed: "),
    (HEAD + ROW.replace("0 1", "3-1"), "line 2: seeds must be numbers such as 0 1 2 or a range "
     "that ascends such as 0-19, at most 1,000 of them, not '3-1'."),
    (HEAD + ROW.replace("0 1", "a"), "not 'a'."), (HEAD + ROW.replace("0 1", "-1"), "not '-1'."),
    (HEAD + ROW.replace("0 1", "0-1000"), "not '0-1000'."),
    (HEAD + ROW.replace("0 1", "9999999999"), "not '9999999999'."),
    (HEAD + ROW.replace("0 1", ""), "seeds must name one at least, such as 0 or 0-19."),
    (HEAD + ROW + "\n" + ROW.replace("smoke", "laptop"), "names 2 budgets (smoke, laptop); a "
     "plan is of one"),
    (HEAD + ROW.replace("smoke", "smoky"), "line 2: unknown budget 'smoky' (nearest: 'smoke')"),
    (HEAD + ROW.replace("1,smoke", "first,smoke"), "line 2: step must be a whole number from 0 "
     "on, not 'first'."),
    (HEAD + ROW.replace("1,smoke", "1.5,smoke"), "line 2: step must be"),
    (HEAD + ROW.replace("0.4", "40 %"), "line 2: rate must be a number from 0 to 1, not '40 %'."),
    (HEAD + ROW.replace("0.4", "nan"), "line 2: rate must be a number from 0 to 1, not 'nan'."),
    (HEAD + ROW + "\n" + ROW.replace("epochs=2", "epoch=2"), "line 3: unknown option 'epoch'"),
    (HEAD + ROW.replace("epochs=2", "epochs"), "an option is a pair KEY=VALUE, such as lr=0.1, "
     "not 'epochs'."),
    (HEAD + ROW.replace("epochs=2", "epochs=2 epochs=3"), "the option 'epochs' is given twice."),
    (HEAD + ROW.replace("epochs=2", "noise=none"), "'noise' is no option of a method; the "
     "printed numbers, or a plan's columns, decide it"),
    (HEAD + ROW.replace("epochs=2", "max_samples=many"), "max_samples must be a whole number from "
     "0 on, not 'many'."),
    (HEAD + ROW.replace("epochs=2", "epochs=two"), "line 2: option 'epochs' takes int"),
    (HEAD + ROW.replace("digits", "mnist"), "line 2: unknown dataset 'mnist'"),
    (HEAD + ROW.replace("symmetric", "human-bad"), "line 2: unknown noise 'human-bad'"),
    (HEAD + ROW + ",more", "line 2: it has more cells than the first line has names."),
    (HEAD + "1,smoke,digits", "line 2: it has fewer cells than the first line has names."),
    (HEAD.encode() + b"1,smoke,digits,\xff", "is no table in UTF-8 with cells parted by commas"),
    (HEAD + '1,"smoke', "is no table in UTF-8 with cells parted by commas"),
])
def test_a_plan_that_is_none_is_refused_in_a_sentence(own, capsys, content, said):
    own(content)
    assert cli.main(["reproduce", "--plan", "mine", "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "noisylabels: the plan " in err and err.count("\n") == 1
    assert "mine.csv" in err and said in err


def test_what_is_asked_of_a_plan_and_is_not_in_it_is_said(own, capsys):
    own(HEAD + ROW)
    assert cli.main(["reproduce", "--plan", "mine", "--method", "elr", "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert "no step of the plan mine is of the methods, data sets and seeds" in err
    assert "printed number" not in out + err
    # what --set says is not the file's fault
    assert cli.main(["reproduce", "--plan", "mine", "--set", "qq=1", "--dry-run"]) == 2
    assert "mine.csv" not in capsys.readouterr().err


def test_a_plan_has_steps_and_no_printed_numbers(own, capsys, monkeypatch):
    own(HEAD + ROW.replace("gce", "gce l2r").replace("epochs=2", ""))
    monkeypatch.setattr(planning.Estimates, "of", lambda self, s: planning.Cost(60, 1))
    assert cli.main(["reproduce", "--plan", "mine", "--dry-run", "--minutes", "1"]) == 0
    out = capsys.readouterr().out
    assert ", 1 minute\n2 settings, 4 runs: the steps of the plan mine, which say the order" in out
    header = next(line for line in out.splitlines() if line.startswith("run "))
    assert " ".join(header.split()) == ("run step numbers recorded begun a run takes known by "
                                        "in this time")
    assert "the passes of l2r are not counted: their guess is that of cross entropy" in out
