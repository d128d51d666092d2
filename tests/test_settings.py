"""What a setting may be: every field of every method, types, rates, and parts that must fit."""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
import pytest
import torch

from noisylabels import lab, methods, noise, ranges
from noisylabels.data import datasets
from noisylabels.methods import forward_correction
from noisylabels.ranges import Interval
from noisylabels.training import engine, networks, recorder, runs

METHODS = tuple(methods.NAMES)
HUGE = 1e300
ODD = (math.nan, math.inf, -math.inf, -1, -0.001, 0, 0.5, HUGE, -HUGE, 10**400, "x", None, True)


def fields_of(method):
    return dataclasses.fields(methods.get(method).Settings)


# ------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize("text, inside, outside", [
    ("[0, 1]", (0, 1, 0.5), (-1e-9, 1.1)), ("(0, 1]", (1e-9, 1), (0,)),
    ("[0, 1)", (0, 0.999), (1,)), ("(0, 1)", (0.5,), (0, 1)),
    ("[1, 100000]", (1, 100_000), (0, 100_001)), ("[0.01, 100]", (0.01,), (0.009,)),
])  # fmt: skip
def test_an_interval_reads_as_it_is_written(text, inside, outside):
    made = Interval.parse(text)
    assert str(made) == text
    assert all(v in made for v in inside) and not any(v in made for v in (*outside, math.nan))


def test_a_text_that_is_no_interval_is_an_error():
    with pytest.raises(ValueError, match="no interval: '0..1'"):
        Interval.parse("0..1")


# ---------------------------------------------------------- every field of every method's settings


@pytest.mark.parametrize("method", METHODS)
def test_every_field_declares_what_it_allows(method):
    cls = methods.get(method).Settings
    hints = typing.get_type_hints(cls)
    silent = [f.name for f in fields_of(method)
              if hints[f.name] is not bool and ranges.allowed(cls, f.name) is None]
    assert silent == []
    for f in fields_of(method):
        rule = ranges.allowed(cls, f.name)
        if isinstance(rule, Interval):
            assert math.isfinite(rule.low) and math.isfinite(rule.high), f.name


@pytest.mark.parametrize("method", METHODS)
def test_no_field_takes_what_it_does_not_allow(method):
    """NaN, infinities, negative, zero, huge and other types: a sentence or a value in range."""
    cls, tried = methods.get(method).Settings, 0
    base = lab.setting(method).options
    for f in fields_of(method):
        rule = ranges.allowed(cls, f.name)
        for value in ODD:
            tried += 1
            try:
                made = lab.setting(method, **{f.name: value})
            except ValueError as error:
                said = str(error)
                assert said.count("\n") == 0 and said.endswith(".") and len(said) < 400, said
                continue
            got = made.options[f.name]
            if got is None or isinstance(got, bool):
                continue
            if isinstance(rule, Interval):
                assert all(v in rule for v in (got if isinstance(got, tuple) else (got,)))
            else:
                assert got in rule or got == base[f.name], (f.name, value)
    assert tried == len(ODD) * len(fields_of(method))


@pytest.mark.parametrize("method, field, value, message", [
    ("drpl", "mix_alpha", 0, r"mix_alpha must be a number in \(0, 1000\], not 0"),
    ("dividemix", "temperature", 0, r"temperature must be a number in \[0.01, 100\], not 0"),
    ("dividemix", "mix_alpha", 0, "mix_alpha must be"),
    ("dividemix", "tau", math.nan, r"tau must be a number in \[0, 1\], not nan"),
    ("dividemix", "loss_history", 0, r"loss_history must be a whole number in \[1, 1000\], not 0"),
    ("ieg", "average", math.nan, "average must be"), ("ieg", "isolation", math.nan, "isolation"),
    ("sanm", "kappa", math.nan, "kappa must be"), ("mixnn", "momentum_target", 5, r"\[0, 1\]"),
    ("cross_entropy", "lr_floor", -1, "lr_floor must be"),
    ("cross_entropy", "drop", -3, "drop must be"), ("sanm", "clip", -1, "clip must be"),
    ("drpl", "ring", 0, "ring must be a whole number"),
    ("drpl", "batch_size", 4, r"batch_size must be a whole number in \[6, 16384\], not 4"),
    ("cross_entropy", "batch_size", 1, r"\[2, 16384\], not 1"),
    ("cross_entropy", "batch_size", HUGE, r"\[2, 16384\], not 1000000000.*301 characters"),
    ("cross_entropy", "network", "wrn28-100000", "the width from 1 to 32"),
    ("cross_entropy", "network", "wrn28-" + "9" * 40, "unknown network"),
    ("cross_entropy", "milestones", "0,5", "milestones must be whole numbers in"),
    ("sanm", "tau_l", 0.5, r"tau_l \(0.5\) must not exceed tau_h \(0.07\)"),
])  # fmt: skip
def test_settings_that_were_taken_or_refused_late(method, field, value, message):
    with pytest.raises(ValueError, match=message):
        lab.setting(method, **{field: value})


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        lab.setting("cross_entropy", nesterov=True, momentum=0)
    with pytest.raises(ValueError, match=r"lr_floor \(0.2\) must not exceed lr \(0.05\)"):
        lab.setting("cross_entropy", lr_floor=0.2)
    assert lab.setting("cross_entropy", lr_floor=0.2, schedule="steps").options["lr_floor"] == 0.2
    with pytest.raises(ValueError, match=r"warm_up \(30\) must not exceed epochs \(20\)"):
        lab.setting("dividemix", warm_up=30)


@pytest.mark.parametrize("milestones", [(5, 3), (3, 3), "9,2"])
def test_milestones_ascend(milestones):
    with pytest.raises(ValueError, match="milestones must ascend, not "):
        lab.setting("cross_entropy", schedule="steps", milestones=milestones)
    assert lab.setting("cross_entropy", milestones="3,5").options["milestones"] == (3, 5)


@pytest.fixture(scope="module")
def recorded():
    return runs.find(finished=False)


def test_recorded_settings_are_still_allowed_and_keep_their_keys(recorded):
    assert len(recorded) > 600
    for run in recorded:
        lab.settings_of(run.setting)
        assert run.folder.name.endswith(run.setting.key)


def test_recorded_settings_are_resolved_again_from_their_own_fields(recorded):
    """Budgets, kinds of noise and data sets may move; a setting, its key and its folder stay."""
    found = [r.setting for r in recorded]
    for s in found:
        values = {k: v for k, v in s.as_dict().items() if k != "options"}
        values["max_samples"] = s.max_samples or 0
        again = lab.setting(**values, **{k: v for k, v in s.options.items() if k not in values})
        assert (again.key, again.path) == (s.key, s.path)
    assert {s.budget for s in found} >= {"smoke", "laptop"}


def test_a_budget_says_what_it_changes():
    assert tuple(lab.BUDGETS) == runs.BUDGETS
    shorter = [b for b in lab.BUDGETS.values() if b.scaled]
    assert len(shorter) == 4 and all(b.recipe["schedule"] == "cosine" for b in shorter)
    assert [n for n, b in lab.BUDGETS.items() if b.follows_all] == ["desk"]
    assert [b.every for b in lab.BUDGETS.values()] == [1, 1, 4, 1, 1]
    assert [b.max_samples for b in lab.BUDGETS.values()] == [None, 10_000, 10_000, None, None]
    assert [b.val_fraction for b in lab.BUDGETS.values()] == [0.1] * 4 + [0.0]


def test_a_field_that_came_later_leaves_the_runs_before_it_their_keys():
    """SANM's shear: the code's bicubic at the paper budget, the nearest pixel elsewhere."""
    for found in runs.find(method="sanm"):
        s = found.setting
        assert "shear" not in s.options and lab.settings_of(s).shear == "nearest"
    plain = lab.setting("sanm", "cifar10", "symmetric", 0.4, "laptop")
    assert "shear" not in plain.options
    assert lab.setting("sanm", "cifar10", "symmetric", 0.4, "laptop", shear="nearest") == plain
    assert runs.lookup(plain) is not None, "a recorded run of today"
    bicubic = lab.setting("sanm", "cifar10", "symmetric", 0.4, "laptop", shear="bicubic")
    assert bicubic.options["shear"] == "bicubic" and bicubic.key != plain.key
    assert lab.settings_of(bicubic).shear == "bicubic"
    for dataset in ("cifar10", "cifar100"):
        paper = lab.setting("sanm", dataset, "symmetric", 0.4, "paper")
        assert paper.options["shear"] == "bicubic"
        assert "shear" not in lab.setting("sanm", dataset, "symmetric", 0.4, "fast").options
    with pytest.raises(ValueError, match="unknown shear 'cubic'; allowed: nearest, bicubic"):
        lab.setting("sanm", shear="cubic")


# ------------------------------------------------------------------------ types of seeds and rates


def test_the_type_of_a_number_does_not_change_the_run():
    plain = lab.setting("mixup", rate=0.3, seed=3, max_samples=500, val_fraction=0.1)
    other = lab.setting("mixup", rate=np.float64(0.1) + np.float64(0.2), seed=np.int64(3),
                        max_samples=np.int32(500), val_fraction=0.30000000000000004 - 0.2,
                        lr=np.float64(0.05), epochs=np.int64(30))
    assert other == plain and other.key == plain.key and other.path == plain.path
    assert type(other.init_seed) is int and type(other.rate) is float
    ieg = [lab.setting("ieg", trusted_per_class=k) for k in (3, np.int64(3))]
    assert ieg[0].key == ieg[1].key


@pytest.mark.parametrize("name", ["rate", "val_fraction", "weight_decay", "lr_floor", "momentum"])
def test_a_negative_zero_is_zero(name):
    plain, other = (lab.setting("cross_entropy", **{name: zero}) for zero in (0.0, -0.0))
    assert plain.key == other.key


def test_more_images_than_there_are_mean_all():
    every = lab.setting("cross_entropy", max_samples=0)
    assert every.key == lab.setting("cross_entropy").key
    for count in (1_297, 1_298, 100_000):
        assert lab.setting("cross_entropy", max_samples=count).key == every.key
    assert lab.setting("cross_entropy", max_samples=1_296).key != every.key


def test_an_unknown_method_of_any_type_is_one_sentence():
    with pytest.raises(ValueError, match="unknown method None; allowed: cross_entropy"):
        lab.setting(None)
    with pytest.raises(ValueError, match=r"not 1000000000.*\(401 characters\)"):
        lab.setting("ieg", trusted_per_class=10**400)


@pytest.mark.parametrize("name, value, message", [
    ("seed", True, "^seed must be a whole number from 0 to 4294967295, not True"),
    ("seed", 2**32, "^seed must be"), ("dataset", 5, "unknown dataset 5; allowed: digits"),
    ("noise", None, "unknown noise None .nearest: none.; allowed"),
    ("budget", ["smoke"], "unknown budget"),
    ("budget", "larptop", "unknown budget 'larptop' .nearest: laptop.; allowed: smoke"),
    ("seed", "3", "not '3'"), ("seed", 1.5, "not 1.5"), ("seed", -1, "not -1"),
    ("init_seed", 2**32, "init_seed must be"), ("max_samples", 50.5, "max_samples must be"),
    ("trusted_per_class", -1, "trusted_per_class must be"),
    ("rate", "0.4", r"rate must be a number in \[0, 1\], not '0.4'"), ("rate", math.nan, "rate"),
    ("rate", -0.1, "not -0.1"), ("rate", True, "not True"),
    ("val_fraction", 1.0, "nothing to train on"), ("val_fraction", math.nan, "val_fraction"),
    ("val_fraction", 0.999, "left to train on"),
])  # fmt: skip
def test_a_number_of_another_kind_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        lab.setting("cross_entropy", **{name: value})


def test_a_rate_that_was_computed_finds_its_runs(tmp_path):
    s = lab.setting("cross_entropy", rate=0.1 + 0.2, epochs=1)
    assert str(s.path).startswith("digits/symmetric-0.30/")
    info = {"status": "finished", "last": 0.5, "epochs": 1, "seconds": 1.0, "realised_rate": 0.27,
            "hardware": "x"}
    runs.save(s, info, [{"stage": "train", "epoch": 1, "test": 0.5}], root=tmp_path)
    for rate in (0.3, 0.1 + 0.2, (0.3, 0.5)):
        assert len(runs.find(tmp_path, rate=rate)) == 1
    assert runs.find(tmp_path, rate=0.31) == [] and runs.find(tmp_path, epochs=2) == []


# --------------------------------------------------------------- data, networks, batches, classes


@pytest.mark.parametrize("method, more, message", [
    ("cross_entropy", dict(network="resnet9"), "'resnet9' does not fit the images of digits: of "
     "8x8 pixels its last map keeps 1x1; networks that fit: tiny, resnet29"),
    ("cross_entropy", dict(network="preact18"), "networks that fit"),
    ("sanm", dict(network="resnet29"), "makes 20x20 pixels of images of 8x8"),
    ("sanm", dict(dataset="cifar10", budget="laptop", network="tiny"), "makes 20x20 pixels"),
    ("cross_entropy", dict(max_samples=5), "max_samples 5 is too few: digits has 10 classes"),
    ("ieg", dict(trusted_per_class=0), "ieg needs trusted samples"),
    ("l2r", dict(trusted_per_class=0), "l2r needs trusted samples"),
    ("cross_entropy_trusted", dict(trusted_per_class=0), "needs trusted samples"),
    ("ieg", dict(trusted_per_class=200), "leave none of 1,297 images"),
    ("ieg", dict(trusted_per_class=127), "127 is too many: the smallest class has only 126"),
    ("dividemix", dict(max_samples=60), "need at least 64 samples, not 54"),
    ("sanm", dict(max_samples=60), "need at least 64 samples"),
    ("mixnn", dict(neighbours=20, max_samples=150, val_fraction=0), "the last batch has 22"),
    ("cross_entropy", dict(noise="superclass"), "superclass"),
    ("cross_entropy", dict(noise="semantic", rate=1.0), r"rate must lie in \[0, 1\)"),
    ("cross_entropy", dict(dataset="cifar100", budget="laptop", noise="human-noisy_coarse"),
     "unknown noise 'human-noisy_coarse'"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_before_any_data_is_read(
        monkeypatch, method, more, message):
    monkeypatch.setattr(datasets, "load", lambda *a: pytest.fail("data were read"))
    if "neighbours" in more:  # 150 = 2 x 64 + 22 would do for 20, not for 22
        lab.setting(method, **more)
        more = {**more, "neighbours": 22}
    with pytest.raises(ValueError, match=message):
        lab.setting(method, **more)


@pytest.mark.parametrize("dataset", datasets.NAMES)
@pytest.mark.parametrize("most", [None, 100, 333, 1_000])
def test_the_smallest_class_is_known_unread(request, dataset, most):
    data = datasets.load("digits") if dataset == "digits" else request.getfixturevalue(dataset)
    part = data if most is None else datasets.subset(data, most)[0]
    counts = torch.bincount(part.y_train, minlength=part.num_classes)
    assert datasets.smallest_class(dataset, most) == int(counts.min())


def test_run_takes_a_setting():
    with pytest.raises(ValueError, match="run takes what lab.setting.* gives, not 'gce'"):
        lab.run("gce")


def test_milestones_that_are_never_reached_are_refused_where_they_were_asked_for():
    with pytest.raises(ValueError, match=r"milestones \(31\) must not exceed epochs \(30\)"):
        lab.setting("cross_entropy", schedule="steps", milestones=(31, 40))
    lab.setting("cross_entropy", schedule="steps", milestones=(5, 31))  # it falls at 5
    short = lab.setting("drpl", "cifar10", budget="paper", epochs=2)  # the paper's milestones
    assert short.options["milestones"][-1] > 2


def test_a_setting_made_by_hand_is_checked_where_it_is_prepared():
    s = lab.setting("cross_entropy")
    bad = dataclasses.replace(s, options={**s.options, "network": "resnet34"})
    with pytest.raises(ValueError, match="does not fit the images"):
        lab.prepare(bad)


def test_the_nearest_name_of_a_human_noise_is_one_that_can_be_run():
    with pytest.raises(ValueError) as refused:
        lab.setting("gce", "cifar100", "human-aggre", budget="laptop")
    assert "coarse" not in str(refused.value)
    assert "human-noisy_fine" in lab.noise_kinds("cifar100")


@pytest.mark.parametrize("name", [*networks.NAMES, "wrn16-4"])
def test_maps_and_decoders_are_known_without_memory(name):
    net = networks.build(name, 10, 1).eval()
    with torch.no_grad():
        maps = net.maps(torch.zeros(1, 1, 32, 32))
    assert networks.last_map(name, 32) == (maps.shape[1], maps.shape[3])
    assert networks.rebuilt(name, 32) == networks.decoder(name, 1)(maps).shape[-1]
    assert (networks.rebuilt(name, 32) == 32) == (name != "tiny")


def human_file(folder, order):
    y = torch.arange(50_000) % 10
    arrays = {k: y[order].numpy() for k in (
        "clean_label", "aggre_label", "worse_label", "random_label1", "random_label2",
        "random_label3")}
    (folder / "cifar_n").mkdir()
    np.savez(folder / "cifar_n" / "cifar10n.npz", **arrays)
    x = torch.zeros(50_000, 3, 32, 32, dtype=torch.uint8)
    return datasets.Dataset("cifar10", x, y, x[:100], y[:100], datasets.CIFAR10_CLASSES,
                            (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("right_order", [True, False])
def test_human_labels_of_another_order_are_refused_on_the_way_of_every_run(
        tmp_path, monkeypatch, right_order):
    order = torch.arange(50_000) if right_order else torch.randperm(
        50_000, generator=torch.Generator().manual_seed(0))
    data = human_file(tmp_path, order)
    monkeypatch.setenv("NOISYLABELS_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "load", lambda name: data)
    s = lab.setting("cross_entropy", "cifar10", "human-aggre", budget="laptop", max_samples=500)
    if right_order:
        task, truth = lab.prepare(s)
        assert len(task) == 450 and not truth.wrong.any()
    else:
        with pytest.raises(ValueError, match="of other images or another order"):
            lab.prepare(s)


# ------------------------------------------------------------------------------- remainders, steps


@pytest.mark.parametrize("samples, batch, least, visited, steps", [
    (640, 64, None, 640, 10), (641, 64, None, 640, 10), (647, 64, None, 640, 10),
    (648, 64, None, 648, 11), (704, 64, None, 704, 11), (703, 64, None, 703, 11),
    (5, 64, None, 5, 1), (1, 64, None, 1, 1), (64, 64, None, 64, 1), (65, 64, None, 64, 1),
    (9, 8, None, 8, 1), (10, 8, None, 10, 2), (7, 2, None, 6, 3),
    (645, 64, 6, 640, 10), (646, 64, 6, 646, 11),
])  # fmt: skip
def test_a_small_remainder_is_left_out_of_a_pass(samples, batch, least, visited, steps):
    assert engine.visited(samples, batch, least) == visited
    if least is None:
        assert engine.steps_of(samples, batch) == steps
    images = torch.zeros(samples, 1, 4, 4, dtype=torch.uint8)
    from noisylabels.kernels import views

    task = engine.Task(images, torch.zeros(samples, dtype=torch.int64), 2, (0.5,), (0.5,),
                       views.Identity(), views.Identity())
    seen = [i for i, _ in task.batches(batch, least=least)]
    assert len(torch.cat(seen)) == len(torch.cat(seen).unique()) == visited
    assert len(seen) == steps
    assert [len(i) for i in seen[:-1]] == [batch] * (steps - 1)


def test_another_sample_is_left_out_each_time():
    from noisylabels.kernels import views

    task = engine.Task(torch.zeros(65, 1, 4, 4, dtype=torch.uint8),
                       torch.zeros(65, dtype=torch.int64), 2, (0.5,), (0.5,), views.Identity(),
                       views.Identity())
    left_out = {(set(range(65)) - set(torch.cat([i for i, _ in task.batches(64)]).tolist())).pop()
                for _ in range(10)}
    assert len(left_out) > 5


def recorder_of(net):
    from noisylabels.kernels import views

    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    task = engine.Task(x, y, 2, (0.5,), (0.5,), views.Identity(), views.Identity())
    wrong = torch.tensor([True, False, False, False])
    truth = recorder.Truth(y, wrong, x, y, x[:0], y[:0], torch.arange(4))
    return recorder.Recorder(task, truth)


def test_an_epoch_without_a_step_is_a_failure():
    net = networks.build("tiny", 2, 1)
    log = recorder_of(net)
    with pytest.raises(recorder.TrainingFailed, match=r"epoch 1 \(S2\) had no step"):
        for _ in log.epochs(2, net, stage="S2"):
            pass
    assert math.isnan(log.rows[0]["loss"])


def test_a_network_that_became_nan_is_a_failure():
    net = networks.build("tiny", 2, 1)
    log = recorder_of(net)
    with pytest.raises(recorder.TrainingFailed, match="outputs are no numbers after epoch 1"):
        for _ in log.epochs(2, net):
            log.loss(torch.tensor(1.0))
            with torch.no_grad():
                net.linear.weight.fill_(math.nan)


# ------------------------------------------------------------------------------ small wrong values


def test_forward_correction_at_the_identity_is_cross_entropy_however_sure():
    eye = torch.eye(3)
    for gap in (1.0, 80.0, 90.0, 500.0):
        z = torch.tensor([[gap, 0, 0]], requires_grad=True)
        loss = forward_correction.forward_cross_entropy(z, torch.tensor([2]), eye)
        loss.backward()
        plain = torch.tensor([[gap, 0, 0]], requires_grad=True)
        expected = torch.nn.functional.cross_entropy(plain, torch.tensor([2]))
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.allclose(z.grad, plain.grad, atol=1e-6)
    z = torch.tensor([[90.0, 0, 0]])
    assert float(forward_correction.forward_cross_entropy(z, torch.tensor([2]), eye)) == 90


def test_forward_correction_stays_finite_where_no_class_gets_the_label():
    t = torch.tensor([[0.5, 0.5, 0], [0, 1.0, 0], [0.2, 0.8, 0]])
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = forward_correction.forward_cross_entropy(z, torch.tensor([0, 1, 2, 0]), t)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()
    h = z.detach().double().softmax(1) @ t.double()
    kept = forward_correction.forward_cross_entropy(z, torch.tensor([0, 1, 1, 0]), t)
    expected = -h[torch.arange(4), [0, 1, 1, 0]].log().mean()
    assert float(kept) == pytest.approx(float(expected), rel=1e-6)


def test_prior_kl_keeps_its_digits_where_two_sums_would_cancel():
    from noisylabels.kernels import objectives

    worst = 0.0
    for seed in range(20):
        z = 2 * torch.randn(64, 10, generator=torch.Generator().manual_seed(seed))
        p = z.softmax(1)
        mean = p.double().mean(0)
        exact = float((0.1 * (math.log(0.1) - mean.log())).sum())
        worst = max(worst, abs(float(objectives.prior_kl(p)) / exact - 1))
        assert float(objectives.prior_kl(p.double())) == pytest.approx(exact, rel=1e-12)
    assert worst < 2e-5  # two sums, each near 2.3, would leave 6e-5
    prior = torch.tensor([0.2, *[0.8 / 9] * 9])
    with_prior = float((prior.double() * (prior.double().log() - mean.log())).sum())
    assert float(objectives.prior_kl(p, prior)) == pytest.approx(with_prior, rel=2e-5)


def test_mixnn_asymmetric_labels_of_cifar100_are_a_noise_that_a_run_can_name():
    s = lab.setting("mixnn", "cifar100", "dividemix-asymmetric-blocks", 0.4, "laptop")
    assert s.noise == "dividemix-asymmetric-blocks"
    y = torch.arange(1000) % 100
    got = noise.corrupt(y, s.noise, 0.4, 100).y_given
    same = noise.corrupt(y, "dividemix-asymmetric", 0.4, 100, class_map="cifar100-blocks")
    assert torch.equal(got, same.y_given) and same.realised_rate == 0.4
    assert (got // 5 == y // 5).all() and int((got != y).sum()) == 400
    assert torch.equal(got[got != y] % 5, (y[got != y] + 1) % 5)


def test_a_dataset_refuses_statistics_that_are_no_numbers():
    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    for mean, std in (((0.5,), (math.nan,)), ((math.nan,), (0.5,)), ((math.inf,), (0.5,))):
        with pytest.raises(ValueError, match="finite mean and a positive std"):
            datasets.Dataset("d", x, y, x, y, ("a", "b"), mean, std)
