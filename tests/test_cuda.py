"""On a GPU: bit-equal views, equal fits, three ways of executing a step, no waiting, resume.

Skipped as a whole, with the reason, where torch sees no GPU. Tolerances are stated at each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from noisylabels import __main__ as command
from noisylabels import lab, methods
from noisylabels.bench import kernels, loops, timing, waits
from noisylabels.kernels import mixtures, neighbours, objectives, pixels, views
from noisylabels.training import engine
from noisylabels.training.recorder import Recorder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(),
                                reason="needs a CUDA GPU, and torch sees none")
EAGER, GRAPH = engine.Execution("cuda"), engine.Execution("cuda", graph=True)
WAYS = {"compiled": engine.Execution("cuda", compile=True), "graph": GRAPH,
        "compiled-graph": engine.Execution("cuda", compile=True, graph=True)}
CLOSE = {"float32": 1e-4, "bfloat16": 2e-2}  # relative, of a step's loss over 20 steps


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_tf32():
    """float32 means float32 (the default lets convolutions round their inputs to 11 bits), and
    convolutions sum in one order, so that two ways of executing differ by no more than rounding.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def no_waiting() -> Iterator[None]:
    """Every operation that waits for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ----------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("name", pixels.OPS)
def test_every_operation_equals_pillow_and_the_cpu(name):
    pytest.importorskip("PIL", reason="the oracle is Pillow")
    from test_views import magnitudes, oracle, pictures

    x = pictures(3, 32, 32)
    rng = np.random.RandomState(7)
    m = torch.from_numpy(magnitudes(name, len(x), 32, rng))[torch.from_numpy(
        rng.permutation(len(x)))]
    got = views.apply_op(name, x.cuda(), m.cuda(), fill=128).cpu()
    assert torch.equal(got, views.apply_op(name, x, m, fill=128))
    assert torch.equal(got, oracle([name] * len(x), x, m, 128))


def test_crop_and_cutout_equal_the_cpu_given_their_draws():
    x = loops.made_up(256, 1).x_train
    draws = torch.Generator().manual_seed(0)
    for pad, mode, fill in ((4, "zero", 0), (4, "reflect", 0), (2, "zero", 128)):
        corner = views.Weak(pad=pad, mode=mode, fill=fill).draw(len(x), draws)
        here = pixels.crop(x, *corner, pad, mode, fill)
        there = pixels.crop(x.cuda(), *(d.cuda() for d in corner), pad, mode, fill)
        assert torch.equal(there.cpu(), here), (pad, mode)
    box = views.Cutout.fixmatch().draw(len(x), (32, 32), draws)
    assert torch.equal(pixels.erase(x.cuda(), *box.cuda(), 127).cpu(),
                       pixels.erase(x, *box, 127))


def test_whole_views_need_no_waiting_and_repeat_themselves():
    x = loops.made_up(512, 1).x_train.cuda()
    for view in (views.Weak(), views.Weak(mode="reflect"), loops.STRONG, views.AutoAugment(),
                 views.Chain((views.AutoAugment.sanm(), views.Cutout.fixmatch())),
                 views.Chain((views.AutoAugment.ieg(), views.Weak.ieg_strong(),
                              views.Cutout.ieg())), views.RandAugment.ieg()):
        a, b = (torch.Generator("cuda").manual_seed(3) for _ in range(2))
        view(x, a), a.manual_seed(3)  # the first call may set things up
        with no_waiting():
            first = view(x, a)
            second = view(x, b)
        assert torch.equal(first, second) and not torch.equal(first, x)


def test_compiled_pixel_work_is_at_most_one_grey_level_off():
    """Fusion may contract a product and a sum, so that a value at an edge is cut off otherwise."""
    x = loops.made_up(480, 1).x_train.cuda()
    augment = views.RandAugment.fixmatch()
    code, m = augment.draw(len(x), (32, 32), torch.Generator("cuda").manual_seed(0))
    compiled = torch.compile(pixels.operate, fullgraph=True)
    for k in range(2):
        plain = pixels.operate(x, code[k], m[k], 0, augment.ops)
        fused = compiled(x, code[k], m[k], 0, augment.ops)
        off = (plain.int() - fused.int()).abs()
        geometric = code[k] < pixels.CODE["AutoContrast"]  # these move pixels and change none
        assert off[~geometric].max() <= 1 and (off > 0).float().mean() < 1e-3


# ------------------------------------------------------------------------ mixtures, neighbours


@pytest.mark.parametrize("wrong", [0.2, 0.5, 0.9])
def test_mixtures_equal_the_cpu_without_waiting(wrong):
    x = kernels.losses(50_000, wrong=wrong)
    there = x.cuda()
    mixtures.fit_gaussians(mixtures.normalise(there)[0]), mixtures.fit_betas(there)
    with no_waiting():
        scaled, status = mixtures.normalise(there)
        gauss, beta = mixtures.fit_gaussians(scaled), mixtures.fit_betas(there)
    here = mixtures.fit_gaussians(mixtures.normalise(x)[0])
    assert int(status) == 0 and int(gauss.status) == int(here.status)
    assert (gauss.p_low.cpu() - here.p_low).abs().max() < 1e-3
    assert ((gauss.p_low.cpu() > 0.5) != (here.p_low > 0.5)).sum() <= 2
    on_cpu = mixtures.fit_betas(x)
    assert (beta.table.cpu() - on_cpu.table).abs().max() < 1e-6
    # a loss at the border of two table entries may fall on the other side of it
    assert ((beta.p_high.cpu() - on_cpu.p_high).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_neighbours_equal_the_cpu(metric, no_tf32):
    draws = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(10, 64, generator=draws)
    x = centres[torch.randint(10, (3_000,), generator=draws)] + torch.randn(
        3_000, 64, generator=draws)
    index, far = neighbours.nearest(x, 10, metric=metric)
    there = neighbours.nearest(x.cuda(), 10, metric=metric)
    torch.testing.assert_close(there[1].cpu(), far, rtol=1e-4, atol=1e-5)
    assert (there[0].cpu() == index).float().mean() > 0.999
    batch = x[:128].cuda()
    neighbours.nearest_in_batch(batch, 3, metric=metric)
    with no_waiting():
        near = neighbours.nearest_in_batch(batch, 3, metric=metric)
    here = neighbours.nearest_in_batch(x[:128], 3, metric=metric)
    assert (near[0].cpu() == here[0]).float().mean() > 0.99


# ------------------------------------------------------------------------------------ the engine


def small_task(execution: engine.Execution, precision: str = "float32", n: int = 212
               ) -> engine.Task:
    """Three batches of 64 and one of 20: the last one has another shape."""
    return loops.task(loops.made_up(n, 1), execution, precision)


def trained(execution: engine.Execution, precision: str, mixed: bool = False, steps: int = 20
            ) -> list[float]:
    """Losses of the first steps of a small network; `mixed` draws within the step."""
    torch._dynamo.reset()
    task = small_task(execution, precision)
    s = engine.Recipe(network="small", batch_size=64, lr=0.02, precision=precision)
    net, opt = engine.start(s, task)
    draws = task.rng("mix")

    @engine.step(opt, task)
    def step(i, x):
        if not mixed:
            return objectives.cross_entropy(net(x), task.y_given[i])
        j = torch.randperm(len(i), generator=draws, device=i.device)
        lam = objectives.draw_beta(0.75, draws, (), i.device)
        z, y = net(objectives.mixup(x, j, lam)), task.y_given[i]
        return (lam * objectives.cross_entropy(z, y)
                + (1 - lam) * objectives.cross_entropy(z, y[j]))

    found: list[torch.Tensor] = []
    epoch = 0
    while len(found) < steps:
        epoch += 1
        engine.set_lr(opt, 0.02 / epoch)
        found += [step(i, x) for i, x in task.batches(64)]
    return torch.stack(found[:steps]).tolist()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_executing_gives_the_same_losses(way, precision, no_tf32):
    np.testing.assert_allclose(trained(WAYS[way], precision), trained(EAGER, precision),
                               rtol=CLOSE[precision])


def test_a_small_step_on_the_gpu_equals_the_cpu(no_tf32):
    """One batch, no augmentation: losses of five steps within 1e-4."""
    data = loops.made_up(64, 1)
    s = engine.Recipe(network="small", batch_size=64, lr=0.02)
    found = []
    for device in ("cpu", "cuda"):
        task = loops.task(data, engine.Execution(device), "float32")
        _, _, step, losses = loops.small_loss_step(task, s)
        i = torch.arange(64, device=device)
        x = task.normalise(task.images)
        found.append([step(i, x).item() for _ in range(5)] + losses.cpu().tolist())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_draws_within_a_graph_are_those_of_eager_steps(no_tf32):
    """A registered generator goes on in a graph where eager steps left it."""
    np.testing.assert_allclose(trained(GRAPH, "float32", mixed=True),
                               trained(EAGER, "float32", mixed=True), rtol=1e-4)


@pytest.mark.parametrize("way", ["graph", "compiled-graph"])
def test_a_graph_obeys_the_learning_rate(way):
    """With a rate of 0 weights do not move, captured or not; afterwards they move again."""
    torch._dynamo.reset()
    task = small_task(WAYS[way])
    s = engine.Recipe(network="small", batch_size=64, lr=0.05)
    net, opt, step, _ = loops.small_loss_step(task, s)

    def epoch(lr: float) -> list[torch.Tensor]:
        engine.set_lr(opt, lr)
        for i, x in task.batches(64):
            step(i, x)
        return [p.detach().clone() for p in net.parameters()]

    epoch(0.05), epoch(0.05)
    before, still, after = epoch(0.05), epoch(0.0), epoch(0.05)
    assert all(torch.equal(a, b) for a, b in zip(before, still, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(still, after, strict=True))


def test_a_graph_takes_two_generators_and_a_second_graph_too(no_tf32):
    """Two steps captured apart that share a generator, and one that nothing in them uses."""
    def run(execution: engine.Execution) -> list[float]:
        task = small_task(execution)
        draws, _ = task.rng("shared"), task.rng("unused")
        steps, found = [], []
        for salt in (0, 1):
            net, opt = engine.start(engine.Recipe(network="small", lr=0.01), task, salt=salt)

            @engine.step(opt, task)
            def step(i, x, net=net):
                noisy = x + 0.1 * torch.randn(x.shape, generator=draws, device=x.device)
                return objectives.cross_entropy(net(noisy), task.y_given[i])

            steps.append(step)
        for _ in range(3):
            for i, x in task.batches(64, drop_last=True):
                found += [step(i, x) for step in steps]
        return torch.stack(found).tolist()

    np.testing.assert_allclose(run(GRAPH), run(EAGER), rtol=1e-4)


def test_a_forward_pass_without_gradients_takes_none_away():
    """Autocast keeps cast weights: those cast under no_grad must not serve the training pass."""
    task = small_task(EAGER, "bfloat16")
    net, _ = engine.start(engine.Recipe(network="small"), task)
    x = task.normalise(task.images[:64])
    with task.autocast():
        with torch.no_grad():
            net(x)
        loss = objectives.cross_entropy(net(x), task.y_given[:64])
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_whole_set_passes_equal_the_cpu(no_tf32):
    found = []
    for device in ("cpu", "cuda"):
        task = small_task(engine.Execution(device))
        net, _ = engine.start(engine.Recipe(network="small"), task)
        z, h = engine.outputs(net, task, features=True)
        found.append((z.cpu(), h.cpu()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# ----------------------------------------------------------------------------------- the methods


class Enough(Exception):
    """As many epochs as the test wants are over."""


def setting(method: str, **options):
    """The method on a few digits; with trusted samples where it takes them."""
    module = methods.get(method)
    takes = hasattr(module, "trusted_per_class") or hasattr(module, "TRUSTED_PER_CLASS")
    return lab.setting(method, rate=0.4, max_samples=400,
                       **({"trusted_per_class": 5} if takes else {}), **options)


def epochs_of(method: str, execution: engine.Execution, count: int) -> list[dict]:
    """The rows of the first epochs."""
    s = setting(method)
    task, truth = lab.prepare(s, execution)

    def each(epoch: int, log: Recorder) -> None:
        if epoch >= count:
            raise Enough

    log = Recorder(task, truth, watch=each)
    try:
        methods.get(method).train(task, lab.settings_of(s), log)
    except Enough:
        pass
    return log.rows


@pytest.mark.parametrize("method", methods.NAMES)
def test_no_step_of_an_epoch_waits(method, home, monkeypatch):
    """From the second epoch on (the first sets things up) a wait between two batches raises."""
    batches, epoch = engine.Task.batches, [1]

    def guarded(self, *args, **options):
        if epoch[0] > 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield from batches(self, *args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def each(number: int, log: Recorder) -> None:
        epoch[0] = number + 1
        if number >= 8:
            raise Enough

    monkeypatch.setattr(engine.Task, "batches", guarded)
    s = setting(method)
    task, truth = lab.prepare(s, EAGER)
    try:
        methods.get(method).train(task, lab.settings_of(s), Recorder(task, truth, watch=each))
    except Enough:
        pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert epoch[0] > 8


@pytest.mark.parametrize("method", methods.NAMES)
def test_an_epoch_waits_seldom(method, home):
    found = waits.of_method(method, torch.device("cuda"))
    assert found.step == 0, found.where
    # the recorder: two synchronize calls, one read, numbers it brings to the GPU; two networks
    # that each ask how many samples are clean
    assert found.epoch <= 8, found.where


@pytest.mark.parametrize("method", methods.NAMES)
def test_each_method_trains_alike_in_a_graph(method, home, no_tf32):
    """A graph that reads a tensor which was replaced, or froze a number, is far off.

    Eight epochs, so that later phases are met. Training amplifies rounding: weights perturbed by
    1e-6 change the loss of MixNN's eighth epoch by more than 1. So the first three epochs are held
    close, the later ones to the same course.
    """
    plain, graphed = epochs_of(method, EAGER, 8), epochs_of(method, GRAPH, 8)
    assert len(plain) == len(graphed) == 8
    for a, b in zip(plain, graphed, strict=True):
        assert a["stage"] == b["stage"] and np.isfinite(b["loss"])
        if a["epoch"] <= 3:
            assert b["loss"] == pytest.approx(a["loss"], rel=0.05, abs=0.02), a["epoch"]
            assert b["test"] == pytest.approx(a["test"], abs=0.12), a["epoch"]
    assert graphed[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-3)
    assert np.mean([b["test"] - a["test"] for a, b in zip(plain[4:], graphed[4:], strict=True)]
                   ) == pytest.approx(0, abs=0.2)


# ----------------------------------------------------------------------------- resume and record


@pytest.mark.parametrize("begun", [EAGER, GRAPH], ids=["eager", "graph"])
@pytest.mark.parametrize("resumed", [EAGER, GRAPH], ids=["eager", "graph"])
def test_a_resumed_run_still_obeys_the_learning_rate(begun, resumed, home):
    """Epoch 1, a kill, epochs 2 (5 steps a graph captures in) and 3, whose rate is 0."""
    s = setting("cross_entropy")
    weights: dict[int, list[torch.Tensor]] = {}

    def run(execution: engine.Execution, last: int) -> None:
        task, truth = lab.prepare(s, execution)
        recipe = engine.Recipe(network="tiny", batch_size=32, lr=0.05)
        net, opt, step, _ = loops.small_loss_step(task, recipe)
        log = Recorder(task, truth, home / "checkpoints")
        for epoch in log.epochs(last, net, opt):
            engine.set_lr(opt, 0.0 if epoch == 3 else 0.05)
            for i, x in task.batches(32, drop_last=True):
                log.loss(step(i, x))
            weights[epoch] = [p.detach().clone() for p in net.parameters()]
        log.finish()
        rate = opt.param_groups[0]["lr"]
        if execution.graph:
            assert isinstance(rate, torch.Tensor) and rate.is_cuda
        assert float(rate) == 0.0 or last < 3

    run(begun, 1)
    run(resumed, 3)
    assert not any(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights[2], weights[3], strict=True))


@pytest.mark.parametrize("execution", [EAGER, GRAPH], ids=["eager", "graph"])
def test_a_killed_run_ends_where_a_whole_one_does(execution, home, no_tf32):
    """Losses within 5 % (some sums have no fixed order), the rest of the record is there."""
    s = setting("elr", epochs=6)

    def run(folder, stop: int | None) -> Recorder:
        task, truth = lab.prepare(s, execution)

        def each(epoch: int, log: Recorder) -> None:
            if epoch == stop:
                raise KeyboardInterrupt

        log = Recorder(task, truth, folder, watch=each)
        try:
            methods.get("elr").train(task, lab.settings_of(s), log)
        except KeyboardInterrupt:
            pass
        log.finish()
        return log

    whole = run(None, None)
    assert len(run(home / "c", 3).rows) == 3
    resumed = run(home / "c", None)
    assert resumed.resumed_at == 3 and len(resumed.rows) == 6
    for a, b in zip(whole.rows, resumed.rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05, abs=0.05), a["epoch"]
        assert b["test"] == pytest.approx(a["test"], abs=0.05)


def test_a_run_is_recorded_with_its_gpu(home):
    run = lab.run(setting("cross_entropy", epochs=2), execution=GRAPH)
    assert run.finished and run.info["hardware"] == torch.cuda.get_device_name()
    assert run.info["execution"] == {"compile": False, "graph": True}
    assert not list((home / "data" / "cache" / "checkpoints").iterdir())


# ---------------------------------------------------------------------------------- several seeds


def test_processes_train_side_by_side():
    b = timing.Bench(torch.device("cuda"), "small", 32, steps=4, warm_up=5, rounds=1)
    rows = timing.measure(b, "seeds", loops.SEEDS[:2])
    assert [len(r.values) for r in rows] == [1, 1] and min(r.median for r in rows) > 0


# ---------------------------------------------------------------------------------- the benchmark


def test_the_quick_benchmark_fails_in_no_row(home):
    import json

    file = home / "r.json"
    assert command.main(["bench", "--quick", "--network", "small", "--batch-size", "32",
                         "--out", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["environment"]["device"] == "cuda"
    assert [r for r in found["rows"] if r["note"].startswith("failed")] == []
    assert all(r["rounds"] for r in found["rows"])
