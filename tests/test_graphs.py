"""Every method under CUDA graphs, emulated on the CPU: a replayed step is the eager step, bit for
bit, over every phase of the first eight epochs."""

from __future__ import annotations

import pytest
import torch

import emulated
from noisylabels import lab, methods
from noisylabels.bench import loops
from noisylabels.kernels import objectives
from noisylabels.training import engine
from noisylabels.training.recorder import Recorder

GRAPH = engine.Execution("cpu", graph=True)
EPOCHS = 8


class Enough(Exception):
    """As many epochs as the test wants are over."""


def rows(method: str, **options) -> list[dict]:
    """What the recorder says of the first epochs on a few digits."""
    module = methods.get(method)
    if hasattr(module, "trusted_per_class"):
        options["trusted_per_class"] = 5
    s = lab.setting(method, rate=0.4, max_samples=300, **options)

    def each(epoch: int, log: Recorder) -> None:
        if epoch >= EPOCHS:
            raise Enough

    task, truth = lab.prepare(s, GRAPH)
    log = Recorder(task, truth, watch=each)
    try:
        module.train(task, lab.settings_of(s), log)
    except Enough:
        pass
    return log.rows


SWITCHES = [("mixnn", dict(partner="random")), ("mixnn", dict(pool="dataset")),
            ("ieg", dict(isolation=0.01)), ("ieg", dict(policy="randaugment")),
            ("drpl", dict(relabel_epochs=2, relabel_from=1, ring=1, split_epochs=3,
                          epochs=3)),
            ("sanm", dict(host="elr", warm_up=2)), ("sanm", dict(branches="random"))]


@pytest.mark.parametrize(("method", "options"), [*((m, {}) for m in methods.NAMES), *SWITCHES],
                         ids=lambda x: x if isinstance(x, str) else "-".join(x) or "plain")
def test_a_replayed_step_is_the_eager_step(method, options, monkeypatch, tmp_path):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    with emulated.eager(monkeypatch):
        plain = rows(method, **options)
    with emulated.graphs(monkeypatch) as made:
        replayed = rows(method, **options)
    assert len(plain) == len(replayed) == EPOCHS
    for a, b in zip(plain, replayed, strict=True):
        for name in ("loss", "test", "clean_fit", "wrong_fit", "val"):
            assert a[name] == b[name], (name, a["epoch"], a["stage"])
    assert sum(g.replays for g in made) >= 10 and all(len(g.calls) > 20 for g in made)


def losses(step_of, count: int = 7) -> list[float]:
    """Losses of a step of one's own on made-up images."""
    task = loops.task(loops.made_up(8, 1), GRAPH, "float32")
    net, opt = engine.start(engine.Recipe(network="tiny", lr=0.02), task)
    step, between = step_of(task, net, opt)
    found = []
    for k in range(count):
        between(k)
        found.append(step(task.y_given, task.normalise(task.images)).item())
    return found


def both(step_of, monkeypatch) -> tuple[list[float], list[float]]:
    with emulated.eager(monkeypatch):
        plain = losses(step_of)
    with emulated.graphs(monkeypatch):
        return plain, losses(step_of)


def weighted(weight_of, change):
    """A step whose loss is weighted by what `weight_of` gives, changed by `change` in between."""
    def step_of(task, net, opt):
        held = {"number": 1.0, "tensor": torch.ones(())}

        @engine.step(opt, task)
        def step(y, x):
            return weight_of(held) * objectives.cross_entropy(net(x), y)

        return step, lambda k: change(held, k)
    return step_of


def replace(held, k):
    held["number"], held["tensor"] = 1.0 / (k + 1), torch.full((), 1.0 / (k + 1))


def test_what_a_graph_cannot_see_is_found(monkeypatch):
    """The emulation errs where a GPU would: a frozen number, a replaced tensor."""
    a, b = both(weighted(lambda held: held["tensor"],
                         lambda held, k: held["tensor"].fill_(1.0 / (k + 1))), monkeypatch)
    assert a == b
    for name in ("number", "tensor"):
        a, b = both(weighted(lambda held, name=name: held[name], replace), monkeypatch)
        assert a[:4] == b[:4] and all(p != q for p, q in zip(a[4:], b[4:], strict=True))


def test_what_a_capture_forbids_is_refused(monkeypatch):
    with pytest.raises(AssertionError, match="reads a value in a capture"):
        both(weighted(lambda held: held["tensor"].item(), lambda held, k: None), monkeypatch)
    stranger = torch.Generator().manual_seed(0)
    with pytest.raises(AssertionError, match="unregistered generator"):
        both(weighted(lambda held: torch.rand((), generator=stranger), lambda held, k: None),
             monkeypatch)
