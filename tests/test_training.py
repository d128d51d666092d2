"""Engine, recorder and lab together: exact resume, no truth in a method, no hidden waiting."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import guards
from conftest import REPO
from noisylabels import lab, methods
from noisylabels.kernels import objectives, views
from noisylabels.methods import dividemix
from noisylabels.training import engine, recorder, runs
from noisylabels.training.engine import Recipe
from noisylabels.training.recorder import Recorder, Truth

NUMBERS = ("test", "val", "loss", "clean_fit", "wrong_fit", "wrong_corrected", "lr")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder of its own, so that no test touches the recorded runs."""
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


def quick(method: str = "cross_entropy", **changes):
    return lab.setting(method, rate=0.6, **{"epochs": 3, "max_samples": 300, **changes})


def same_numbers(a: runs.Run, b: runs.Run) -> None:
    for name in NUMBERS:
        if name in a.epochs:
            np.testing.assert_array_equal(a.epochs[name], b.epochs[name], err_msg=name)


# ------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("recipe, expected", [
    # MixNN 3.1: 0.02, cosine restarts every 10 epochs, floor 0.001; epochs 10, 20, ... are lowest
    (Recipe(), {1: 0.02, 6: 0.0105, 10: 0.001465, 11: 0.02, 300: 0.001465}),
    # DRPL 3.2, CIFAR-10 stage 1: .1 in epochs 1-74, .01 in 75-109, .001 in 110-130
    (Recipe(lr=0.1, schedule="steps", milestones=(75, 110)),
     {1: 0.1, 74: 0.1, 75: 0.01, 109: 0.01, 110: 0.001, 130: 0.001}),
    (Recipe(lr=0.1, schedule="cosine", epochs=10, lr_floor=0.0), {1: 0.1, 6: 0.05}),
    (Recipe(lr=0.3, schedule="constant"), {1: 0.3, 300: 0.3}),
    (Recipe(lr=0.4, schedule="onecycle", epochs=10, lr_floor=0.0), {1: 0.2, 2: 0.4, 10: 0.4 / 9}),
])
def test_learning_rates_by_epoch(recipe, expected):
    for epoch, lr in expected.items():
        assert recipe.lr_at(epoch) == pytest.approx(lr, rel=1e-3), epoch


@pytest.mark.parametrize("bad, words", [
    (dict(schedule="linear"), "unknown schedule 'linear'; allowed: constant"),
    (dict(precision="float16"), "allowed: float32, bfloat16"),
    (dict(epochs=0), r"in \[1, 100000\], not 0")])
def test_a_bad_recipe_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**bad)


# ---------------------------------------------------------------------------- resolving settings


def test_settings_resolve_by_budget():
    paper = lab.setting("elr", "cifar10", "symmetric", 0.4, "paper")
    assert paper.options["network"] == "resnet34" and paper.options["epochs"] == 150
    assert (paper.options["beta"], paper.options["lam"]) == (0.7, 3.0)
    asym = lab.setting("elr", "cifar10", "asymmetric", 0.4, "paper")
    assert (asym.options["beta"], asym.options["lam"], asym.options["epochs"]) == (0.9, 1.0, 120)
    assert asym.options["milestones"] == (41, 81) and paper.val_fraction == 0.0
    hundred = lab.setting("elr", "cifar100", "symmetric", 0.4, "paper").options
    assert hundred["lam"] == 7.0 and hundred["milestones"] == (81, 121)
    rates = [lab.settings_of(asym).lr_at(e) for e in (40, 41, 80, 81)]
    assert rates == pytest.approx([0.02, 2e-4, 2e-4, 2e-6])  # lowered at the end of 40 and 80
    for kind in ("dividemix-asymmetric", "drpl-nonuniform", "asymmetric-coin"):
        other = lab.setting("elr", "cifar10", kind, 0.4, "paper").options
        assert (other["lam"], other["milestones"]) == (1.0, (41, 81)), kind
    fast = lab.setting("elr", "cifar10", "asymmetric", 0.4, "fast").options
    assert (fast["milestones"], fast["schedule"], fast["drop"]) == ((), "cosine", 0.1)
    small = lab.setting("gce", "cifar10", "symmetric", 0.8, "laptop", seed=2, q=0.5)
    assert small.max_samples == 10_000 and small.seed == "2" and small.options["q"] == 0.5
    assert lab.settings_of(asym).milestones == (41, 81)


@pytest.mark.parametrize("call, words", [
    (dict(method="cross_entropi"), "did you mean 'cross_entropy'"),
    (dict(method="gce", dataset="cifar11"), "nearest: cifar10"),
    (dict(method="gce", noise="symetric"), "nearest: symmetric"),
    (dict(method="gce", budget="big"), "allowed: smoke, laptop, desk, fast, paper"),
    (dict(method="gce", qq=0.5), "unknown option 'qq'"),
    (dict(method="gce", q="much"), "option 'q' takes float, not 'much'"),
    (dict(method="gce", epochs=2.5), "option 'epochs' takes int"),
    (dict(method="gce", nesterov="perhaps"), "option 'nesterov' takes bool"),
    (dict(method="gce", rate=-0.1), r"in \[0, 1\], not -0.1"),
    (dict(method="gce", dataset="cifar10"), "smoke budget is made for the digits")])
def test_a_bad_setting_says_what_is_allowed(call, words):
    with pytest.raises(ValueError, match=words):
        lab.setting(**call)


def test_options_are_read_as_their_field_type():
    s = lab.setting("gce", q="0.5", epochs="4", nesterov="yes", milestones="2,3")
    assert s.options["q"] == 0.5 and s.options["epochs"] == 4
    assert s.options["nesterov"] is True and s.options["milestones"] == (2, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_images_are_normalised_bit_for_bit_whatever_their_layout(channels, count):
    task = guards.a_task(mean=(0.49, 0.48, 0.45)[:channels], std=(0.247, 0.243, 0.262)[:channels],
                         images=torch.zeros(64, channels, 8, 8, dtype=torch.uint8))
    scale = (1 / (255 * torch.tensor(task.std))).view(1, -1, 1, 1)
    shift = (torch.tensor(task.mean) / torch.tensor(task.std)).view(1, -1, 1, 1)
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, channels, 12, 10), dtype=torch.uint8, generator=draws)
    last = torch.channels_last
    for given in (x, x.contiguous(memory_format=last), x.flip(0), x[:, :, ::2], x[..., 1:]):
        before, plain = given.clone(), given.float()
        found = task.normalise(given)
        assert torch.equal(found, plain * scale - shift) and torch.equal(given, before)
        assert found.stride() == given.to(torch.float32, memory_format=last).stride()


# ------------------------------------------------------------------------------ training and truth


@pytest.mark.parametrize("method", ["cross_entropy", "mixup", "gce", "elr"])
def test_every_baseline_trains_records_and_repeats_itself(home, method):
    run = lab.run(quick(method))
    assert run.finished and len(run.epochs["test"]) == 3
    assert run.info["realised_rate"] == pytest.approx(0.54, abs=0.06)
    assert run.info["samples"] + run.info["validation"] == 300
    same_numbers(run, lab.watch(quick(method))[0])
    assert lab.run(quick(method)).info["date"] == run.info["date"], "a finished run is only loaded"
    assert not list((home / "data" / "cache" / "checkpoints").iterdir()), "checkpoints are removed"


def test_learning_happens(home):
    run, _ = lab.watch(lab.setting("cross_entropy", rate=0.0, epochs=8))
    assert run.last() > 0.9 and run.last("clean_fit") > 0.9
    assert np.isnan(run.last("wrong_fit")), "there are no wrong labels to memorise"


def test_the_truth_reaches_no_method(home):
    """Poison: other true labels and another test set; the trained weights stay the same."""
    s = quick("elr")
    weights = []
    for poison in (False, True):
        task, truth = lab.prepare(s)
        hidden = truth.y_true.data_ptr()
        assert all(v.data_ptr() != hidden for v in vars(task).values()
                   if isinstance(v, torch.Tensor))
        assert "y_true" not in {f.name for f in dataclasses.fields(task)}
        if poison:
            truth = Truth(y_true=truth.y_true.flip(0), wrong=~truth.wrong, probe=truth.probe,
                          x_test=255 - truth.x_test, y_test=truth.y_test.flip(0),
                          x_val=255 - truth.x_val, y_val=truth.y_val.flip(0))
        net = methods.get("elr").train(task, lab.settings_of(s), Recorder(task, truth))
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


def test_recorder_counts_by_truth(home):
    """Numbers of one epoch against a count by hand."""
    seen = {}

    def each(epoch, log):
        guess = log.logits(log.task.images).argmax(1)
        given, true, wrong = log.task.y_given, log.truth.y_true, log.truth.wrong
        seen[epoch] = ((guess == given)[~wrong].float().mean().item(),
                       (guess == given)[wrong].float().mean().item(),
                       (guess == true)[wrong].float().mean().item())

    run, _ = lab.watch(quick(), each)
    for k, name in enumerate(("clean_fit", "wrong_fit", "wrong_corrected")):
        np.testing.assert_allclose(run.epochs[name], [seen[e][k] for e in (1, 2, 3)], atol=1e-6)


def test_foreign_images_have_no_label_to_be_corrected_to(home, monkeypatch):
    """Out of distribution `y_true` is the label that was kept, and right for nobody."""
    task, truth = lab.prepare(quick())
    foreign = torch.arange(len(task)) % 3 == 0
    mistaken = torch.arange(len(task)) % 3 == 1
    right = torch.eye(10)[truth.y_true]
    right[foreign] = right[foreign].roll(1, 1)  # the guesses: all right but for the foreign ones
    monkeypatch.setattr(Recorder, "logits", lambda self, images, nets=None: right
                        if len(images) == len(task) else torch.zeros(len(images), 10))
    given = torch.where(mistaken, (truth.y_true + 1) % 10, truth.y_true)
    for wrong, y_given, expected in (
            (foreign, truth.y_true, (math.nan, 1.0)), (mistaken, given, (1.0, 2 / 3)),
            (foreign | mistaken, given, (1.0, 1.0)),
            (torch.ones(len(task), dtype=torch.bool), truth.y_true, (math.nan, math.nan))):
        log = Recorder(dataclasses.replace(task, y_given=y_given),
                       dataclasses.replace(truth, wrong=wrong))
        net, _ = engine.start(lab.settings_of(quick()), task)
        for _ in log.epochs(1, net):
            log.targets(right)
            log.loss(torch.tensor(1.0))
        found = [log.rows[0][k] for k in ("wrong_corrected", "label_accuracy")]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_signals_are_kept_when_asked_for(home):
    plain = lab.run(quick("gce"))
    assert plain.signals == {}
    run = lab.run(quick("elr", epochs=4), signals=True)
    wrong = run.signals.pop("wrong") > 0
    assert set(run.signals) == {"index", "given", "wrong", "loss-2", "loss-4"}
    assert wrong.mean() == pytest.approx(run.info["realised_rate"], abs=1e-4)
    assert all(len(v) == run.info["samples"] for v in run.signals.values())
    assert run.signals["loss-4"][wrong].mean() > run.signals["loss-4"][~wrong].mean()
    # stages are counted through: three epochs of relabelling, two of training
    stages = lab.run(quick("joint_optimisation", relabel_epochs=3, relabel_from=1, ring=1,
                           epochs=2), signals=True)
    assert set(stages.signals) >= {"wrong", "loss-2", "loss-5"} and len(stages.epochs["loss"]) == 5


def test_three_seeds_vary_apart(home):
    base, _ = lab.prepare(quick())
    noise, _ = lab.prepare(quick(noise_seed=5))
    split, _ = lab.prepare(quick(split_seed=5))
    init, _ = lab.prepare(quick(init_seed=5))
    assert torch.equal(base.images, noise.images) and not torch.equal(base.y_given, noise.y_given)
    assert not torch.equal(base.images, split.images)
    assert torch.equal(base.y_given, init.y_given) and base.seed != init.seed


def test_a_trusted_set_is_clean_balanced_and_out_of_training(home):
    task, truth = lab.prepare(lab.setting("cross_entropy", rate=0.9, trusted_per_class=3))
    images, labels = task.trusted
    assert torch.bincount(labels).tolist() == [3] * 10
    assert len(task) + len(truth.y_val) + 30 == 1297
    flat = {x.numpy().tobytes() for x in task.images}
    assert sum(x.numpy().tobytes() in flat for x in images) == 0


def test_a_failed_run_is_recorded_and_counted(home):
    s = quick(lr=1e9, momentum=0.99)
    with pytest.raises(lab.TrainingFailed, match="the loss became|are no numbers"):
        lab.run(s)
    assert runs.find() == [] and not runs.find(finished=False)[0].finished
    assert lab.run(s).info["status"] == "failed", "it is not tried again unasked"
    with pytest.raises(lab.TrainingFailed):
        lab.run(s, again=True)


# ------------------------------------------------------------------------------------- resume

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from noisylabels import lab
s = lab.setting("elr", rate=0.6, epochs=8, max_samples=600)
lab.run(s, progress=lambda row: print(row["epoch"], flush=True),
        waiting=lambda: print("waiting", flush=True))
print("done", flush=True)
"""


def start_run(home):
    env = {**os.environ, "NOISYLABELS_HOME": str(home), "OMP_NUM_THREADS": "1",
           "PYTHONPATH": str(REPO / "lib")}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=env,
                            stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_ends_with_the_same_numbers(home, tmp_path_factory, how):
    whole = tmp_path_factory.mktemp("whole")
    process = start_run(home)
    assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
    time.sleep(0.02)  # somewhere inside an epoch
    process.send_signal(how)
    process.wait()
    assert runs.find(home / "data" / "runs") == []
    rest = start_run(home).communicate(timeout=600)[0].split()
    assert rest[-1] == "done" and len(rest) <= 6, f"at most one finished epoch was redone: {rest}"
    start_run(whole).communicate(timeout=600)
    a, b = (runs.find(h / "data" / "runs")[0] for h in (home, whole))
    assert a.setting == b.setting and len(a.epochs["test"]) == 8
    same_numbers(a, b)
    np.testing.assert_array_equal(a.epochs["label_accuracy"], b.epochs["label_accuracy"])


def test_of_two_processes_one_trains_and_one_waits(home):
    pair = [start_run(home), start_run(home)]
    said = [p.communicate(timeout=600)[0].split() for p in pair]
    trained = [words for words in said if "1" in words]
    loaded = [words for words in said if "1" not in words]
    assert len(trained) == 1 and loaded == [["waiting", "done"]]
    assert len(runs.find(home / "data" / "runs")) == 1


def test_stages_with_fresh_networks_resume_in_place(home):
    """Three blocks, a tensor computed between them, two networks in the last: all put back."""

    def train(task, log, stop_at=None):
        s = Recipe(network="tiny", batch_size=64, lr=0.05, schedule="constant")
        q = objectives.one_hot(task.y_given, task.num_classes).float()
        nets = []
        for block in range(3):
            net, opt = engine.start(s, task, salt=block)
            other, _ = engine.start(s, task, salt=10 + block)

            @engine.step(opt, task)
            def step(i, x, net=net):
                return objectives.soft_cross_entropy(net(x), q[i])

            answer = [net, other] if block == 2 else None
            for _ in log.epochs(2, net, opt, other, q, predict=answer, stage=f"s{block}"):
                for i, x in task.batches(s.batch_size):
                    log.loss(step(i, x))
                q.lerp_(engine.outputs(net, task)[0].softmax(1), 0.3)
                if stop_at is not None and len(log.rows) + 1 == stop_at:
                    raise KeyboardInterrupt
            nets.append(net)
        return q

    s = quick()
    task, truth = lab.prepare(s)
    whole = train(task, log := Recorder(task, truth))
    for stop_at in (1, 2, 3, 4, 6):
        folder = home / f"stop-{stop_at}"
        task, truth = lab.prepare(s)
        with pytest.raises(KeyboardInterrupt):
            train(task, Recorder(task, truth, folder), stop_at)
        task, truth = lab.prepare(s)
        resumed = Recorder(task, truth, folder)
        assert torch.equal(train(task, resumed), whole), stop_at
        assert resumed.resumed_at == stop_at - 1
        for a, b in zip(log.rows, resumed.rows, strict=True):
            assert [a[k] for k in ("stage", "epoch", "test", "loss")] == \
                   [b[k] for k in ("stage", "epoch", "test", "loss")]


def test_a_learning_rate_on_the_device_survives_a_resume():
    """Graphs read the rate from one tensor: loading a state must fill it, not replace it."""
    weight = torch.nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.1)
    optimiser = torch.optim.SGD([weight], lr=rate, momentum=0.9)
    saved = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.02).state_dict()
    recorder._put_back(optimiser, saved)
    assert optimiser.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.02)
    plain = torch.optim.SGD([weight], lr=0.1)
    recorder._put_back(plain, optimiser.state_dict())
    assert plain.param_groups[0]["lr"] == pytest.approx(0.02)


def test_a_checkpoint_that_a_thread_could_not_write_is_an_error(home):
    task, truth = lab.prepare(quick())
    log = Recorder(task, truth)
    (home / "blocked").write_text("a file")
    log._write({}, home / "blocked" / "block-0.pt")
    with pytest.raises(runs.StoreError, match="could not write the checkpoint"):
        log.finish()
    log.finish()


def test_a_checkpoint_that_torch_could_not_write_is_told_in_our_words(home, monkeypatch):
    def cut(content, file):
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(runs.StoreError, match="block-0.pt .it was cut off.; free") as said:
        lab.run(quick())
    assert "enforce" not in str(said.value)


def test_a_damaged_checkpoint_is_named(home):
    s = quick()
    file = home / "data" / "cache" / "checkpoints" / s.key / "block-0.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(runs.StoreError, match="block-0.pt cannot be read"):
        lab.run(s)


def test_an_unwritable_store_is_a_clear_error(home):
    (home / "data").mkdir()
    (home / "data" / "cache").write_text("a file where a folder should be")
    with pytest.raises(runs.StoreError, match="free the disk or make the folder writable"):
        lab.run(quick())


# -------------------------------------------------------------------------------------- guards


BASELINES = ["cross_entropy", "mixup", "gce", "elr"]


@pytest.mark.parametrize("method", BASELINES)
def test_an_epoch_never_waits_for_the_host(method, monkeypatch):
    guards.no_hidden_reads(method, monkeypatch)


def test_the_guard_above_sees_a_hidden_read():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.rand(3).sum().item()


@pytest.mark.parametrize("method", methods.NAMES)
def test_every_tensor_of_a_method_is_on_its_device(method, monkeypatch):
    """The digits schedule (of DivideMix's kin one epoch after the warm-up): every phase is met."""
    options = dict(lab.setting(method).options)
    if "warm_up" in options:
        options["epochs"] = options["warm_up"] + 1
    s = lab.setting(method, **options)
    monkeypatch.setattr(dividemix, "divide", lambda w, tau, batch: (  # it may read one number
        w.argsort()[:len(w) // 2], w.argsort()[len(w) // 2:]))
    guards.one_device(method, monkeypatch, 4 * s.trusted_per_class, **s.options)


def test_the_guard_above_sees_a_tensor_left_on_the_host(monkeypatch):
    elsewhere, module = torch.arange(64) % 10, methods.get("cross_entropy")

    def train_with(labels_of):
        def train(task, s, log):
            net, opt = engine.start(s, task)

            @engine.step(opt, task)
            def step(i, x):
                return objectives.cross_entropy(net(x), labels_of(task, i))

            for _ in log.epochs(1):
                for i, x in task.batches(32):
                    log.loss(step(i, x))
        monkeypatch.setattr(module, "train", train)
        with monkeypatch.context() as patched:
            guards.one_device("cross_entropy", patched)

    train_with(lambda task, i: task.y_given[i])
    for wrong, words in {
        lambda task, i: elsewhere[i]: "index takes tensors of",
        lambda task, i: elsewhere.to(i.device)[i]: "_to_copy from the host within a step",
        lambda task, i: torch.tensor([0] * 32, device=i.device): "tensor within a step",
    }.items():
        with pytest.raises(AssertionError, match=words):
            train_with(wrong)


@pytest.mark.parametrize("method", BASELINES)
def test_operations_do_not_grow_with_the_batch(method):
    guards.no_loop_over_samples(method)


@pytest.mark.parametrize("method", BASELINES)
def test_compiled_and_eager_agree(method, monkeypatch):
    guards.compiled_agrees(method, monkeypatch, epochs=2)


def test_execution_refuses_what_is_not_there():
    assert engine.Execution().resolve().device in ("cpu", "cuda")
    with pytest.raises(ValueError, match="unknown device 'tpu'; allowed: auto, cpu, cuda"):
        engine.Execution("tpu").resolve()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no GPU"):
            engine.Execution("cuda").resolve()
        with pytest.raises(ValueError, match="needs a GPU"):
            engine.Execution("cpu", graph=True).resolve()


def test_weight_average_follows_tensorflows_warm_up():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    average = engine.WeightAverage(net, 0.999)
    torch.nn.init.ones_(net.weight)
    expected = 0.0
    for t in range(5):
        average.update(net)
        decay = (1 + t) / (10 + t)
        expected = decay * expected + (1 - decay)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
    again = engine.WeightAverage(torch.nn.Linear(1, 1, bias=False))
    again.load_state_dict(average.state_dict())
    assert again.updates == 5 and torch.equal(again.module.weight, average.module.weight)


def test_batches_visit_each_sample_once_and_draw_views_per_sample():
    task = guards.a_task(100)
    task.images.copy_(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(100, 1, 8, 8))
    index = torch.cat([i for i, _ in task.batches(32)])
    assert index.sort().values.tolist() == list(range(100)) and index.tolist() != list(range(100))
    assert [len(i) for i, _ in task.batches(32, drop_last=True)] == [32, 32, 32]
    part = torch.tensor([3, 5, 8])
    i, x, again = next(task.batches(2, views.Identity(), views.Identity(), subset=part,
                                    shuffle=False))
    assert i.tolist() == [3, 5] and torch.equal(x, again)
    assert x[0].unique().item() == pytest.approx((3 / 255 - 0.3) / 0.4, rel=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)
