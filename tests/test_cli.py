"""The command line: what it prints, refuses, records, and how it ends."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from typing import Annotated

import numpy as np
import pytest
import torch
import typer

from conftest import REPO
from noisylabels import __main__ as cli
from noisylabels import lab, wording
from noisylabels.commands import common, doctor, train
from noisylabels.commands import page as page_command
from noisylabels.data import datasets, photographs
from noisylabels.evidence import page_checks
from noisylabels.lab import cost
from noisylabels.training import engine, provenance, runs
from noisylabels.training.runs import Setting

TINY = ["train", "--method", "cross_entropy", "--rate", "0.6", "--max-samples", "200",
        "--epochs", "3"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder of its own, without CIFAR."""
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    monkeypatch.delenv("NOISYLABELS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(home, capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def run(*words) -> tuple[int, str, str]:
        code = cli.main([str(w) for w in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def refused(answer, *words: str) -> None:
    """Exit code 2, nothing else on stdout, one line on stderr that holds all the words."""
    code, out, err = answer
    assert code == 2 and "Traceback" not in err
    assert err.startswith("noisylabels: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -------------------------------------------------------------------------------- the command line


def test_help_is_quick_because_it_imports_nothing_heavy():
    heavy = "{'torch', 'papermill', 'sklearn', 'pandas', 'torchvision', 'yaml'}"
    code = (
        "import sys\nfrom noisylabels.__main__ import main\n"
        "for words in [[], ['train'], ['runs'], ['page'], ['doctor'], ['runs', 'show'],\n"
        "              ['runs', 'list'], ['runs', 'compare']]:\n"
        "    try:\n        main([*words, '--help'])\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO / "lib"), "COLUMNS": "99"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for command in ("train", "runs", "page", "doctor"):
        assert re.search(rf"^  {command} ", done.stdout, re.M)
        assert f"example:\n  noisylabels {command} " in done.stdout
    assert not any(x in done.stdout for x in "\x1b│╭─")


def test_version_and_module_name(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"noisylabels \d.*\n", capsys.readouterr().out)


def test_wrong_words_are_refused_with_the_nearest_valid_one(call):
    refused(
        call("trian"), "unknown command 'trian' (nearest: 'train'); allowed: train, runs, page"
    )
    refused(call(), "required: COMMAND")
    refused(call("train", "--methd", "gce"), "unknown argument '--methd' (nearest: '--method')")
    refused(call(*TINY, "--epoch", "3"), "unknown argument '--epoch' (nearest: '--epochs')")
    refused(call("train"), "required: --method (see `noisylabels train --help`)")
    refused(call(*TINY, "--rate", "x"), "a number from 0 to 1, such as 0.4,")
    refused(call("runs", "lst"), "unknown action 'lst' (nearest: 'list')")
    refused(
        call("doctor", "--download", "cifar11"),
        "unknown --download 'cifar11'",
        "cifar10, cifar100",
    )
    refused(call("runs", "list", "--budgt", "laptop"), "(nearest: '--budget')")


def test_a_misspelt_command_is_named_before_its_options(call):
    refused(call("tran", "--method", "gce"), "unknown command 'tran' (nearest: 'train'); allowed")
    refused(call("Page", "--list"), "unknown command 'Page' (nearest: 'page')")


def test_a_file_that_is_not_there_is_named_without_numbers(call, home):
    (home / "folder").mkdir()
    for name, why in (("no.tar", "No such file or directory"), ("folder", "Is a directory")):
        code, out, err = call("reproduce", "--unpack", name)
        assert (code, out, err) == (1, "", f"noisylabels: {name}: {why}.\n")


@pytest.mark.parametrize("words, said", [
    (["--minutes", "-1"], "a number of minutes from 0 to 100000 is needed, not '-1'"),
    (["--minutes", "nan"], "a number of minutes from 0 to 100000 is needed, not 'nan'"),
    (["--minutes", "1h"], "not '1h'"), (["--rounds", "1.5"], "1 to 100000 is needed, not '1.5'"),
    (["--batch-size", "many"], "a whole number from 8 to 100000 is needed, not 'many'"),
])
def test_bench_refuses_what_is_no_number(call, words, said):
    refused(call("bench", *words), said)


def test_every_word_has_its_module():
    for module, _ in cli.COMMANDS.values():
        assert importlib.util.find_spec(f"noisylabels.commands.{module}") is not None


@pytest.mark.parametrize("error, code, said", [
    (wording.Failed("it broke."), 1, "it broke."), (KeyboardInterrupt(), 130, "stopped."),
    (OSError(28, "No space left on device"), 1, "No space left on device"),
    (ModuleNotFoundError("No module named 'yaml'", name="yaml"), 1, "`pip install yaml`"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 1, "smaller network or batch"),
])
def test_exit_codes(monkeypatch, call, error, code, said):
    def fail():
        raise error

    monkeypatch.setattr(runs, "scan", fail)
    got, out, err = call("runs")
    assert (got, out) == (code, "") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ImportError])
def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch, call, error):
    def fail():
        raise error("a bug")

    monkeypatch.setattr(runs, "scan", fail)
    if error is ImportError:
        monkeypatch.setattr(cli, "deliberate", lambda e: False)
    with pytest.raises(error, match="a bug"):
        call("runs")


def test_a_reader_that_has_seen_enough_is_no_error(home):
    """`noisylabels ... | head -0`"""
    env = {**os.environ, "PYTHONPATH": str(REPO / "lib")}
    command = [sys.executable, "-m", "noisylabels", "runs"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


def unheard(monkeypatch, *words) -> int:
    """The exit code of a command whose reader has gone before the first word."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, monkeypatch.context() as m:
        m.setattr(sys, "stdout", stream)
        return cli.main([*words])


def test_work_goes_on_when_nobody_listens(home, monkeypatch):
    monkeypatch.setattr(train, "expected", lambda *_, **__: "not long")
    assert unheard(monkeypatch, *TINY, "--dry-run") == 0 and runs.find() == []
    assert unheard(monkeypatch, *TINY) == 0
    (run,) = runs.find()
    assert run.finished and len(run.epochs["test"]) == 3
    assert unheard(monkeypatch, *TINY, "--set", "lr=1e9", "--set", "momentum=0.99") == 1
    assert len(runs.find(finished=False)) == 2
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert unheard(monkeypatch, "doctor", "--quick") == 1


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["runs"], ["page", "--list"]])
def test_what_only_prints_is_done_when_nobody_listens(home, monkeypatch, words):
    assert unheard(monkeypatch, *words) == 0


def test_another_pipe_that_breaks_is_no_reader_that_went(call, monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(train, "resolve", fail)
    code, out, err = call(*TINY)
    assert (code, out) == (1, "") and "Broken pipe" in err


# -------------------------------------------------------------------------------- words and tables


def test_numbers_in_words():
    assert [wording.duration(s) for s in (0.44, 45, 204, 7560, 345_600, math.nan)] == [
        "0.4 s", "45 s", "3.4 min", "2.1 h", "4.0 days", "–"]
    assert wording.percent(0.712) == "71.20 %" and wording.percent(math.nan) == "–"
    assert wording.spread(0.712, 0.0031) == "71.20 ± 0.31"
    assert wording.spread(0.7, math.nan) == "70.00"
    assert wording.spread(math.nan, math.nan) == "–"
    assert wording.count(1, "run") == "1 run" and wording.count(2000, "run") == "2,000 runs"
    assert wording.size(12.34e9) == "12.3 GB" and wording.size(4e6) == "4.0 MB"
    assert [wording.words_of(v) for v in ((1, 2), (), None, 0.5, True, "x")] == [
        "1,2", "()", "none", "0.5", "True", "x"]
    assert wording.table(("a", "b"), [("x", 1), ("yy", 22)], ("a",)) == (
        "a    b\n--  --\nx    1\nyy  22")


ROWS = [("gce", "symmetric", "61.20 ± 0.31"), ("co\x1b[2Jx", "a b", "7")]


def test_a_log_gets_tables_without_lines_and_facts_without_breaks(capsys):
    common.say("numbers", common.table(("method", "noise", "mean"), ROWS, ("method", "noise")),
               common.facts([("path", "a" * 300), ("much", "x\n y")]))
    assert capsys.readouterr().out == (
        "numbers\n"
        "method      noise              mean\n"
        "gce         symmetric  61.20 ± 0.31\n"
        "co\\x1b[2Jx  a b                   7\n"
        f"  path        {'a' * 300}\n"
        "  much        x y\n")


@pytest.mark.parametrize("width", [99, 20])
def test_a_terminal_gets_lines_and_no_broken_number(monkeypatch, width):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    common.say(common.table(("method", "noise", "mean"), ROWS, ("method", "noise")))
    text = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
    assert "─" in text and "61.20 ± 0.31" in text and "\x1b" not in text
    common.say(common.facts([("data", "word " * 30)]))
    assert max(map(len, screen.getvalue().splitlines()[-5:])) <= max(width, 20)


@pytest.mark.parametrize("words, read", [
    (["--one", "3", "--many", "a", "b", "--none", "--pair", "k", "v", "--pair", "l", "-3"],
     (3, ["a", "b"], 20, ["k", "v", "l", "-3"])),
    (["--none", "5", "--many", "a", "--many=b"], (None, ["a", "b"], 5, None)),
    (["--none=6", "--one=2"], (2, None, 6, None)),
])
def test_options_of_none_two_and_many_words(words, read):
    app, seen = common.app(), []

    @app.command(cls=common.Command)
    def _(one: Annotated[int | None, typer.Option(min=1, max=9)] = None,
          many: Annotated[list[str] | None, typer.Option(metavar="M...")] = None,
          none: Annotated[int | None, typer.Option(metavar="[N=20]")] = None,
          pair: Annotated[list[str] | None, typer.Option(metavar="KEY VALUE")] = None) -> None:
        seen.append((one, many, none, pair))

    command = typer.main.get_command(app)

    def run(words):
        with command.make_context("x", list(words)) as context:
            command.invoke(context)

    run(words)
    assert seen == [read]
    for bad, said in ((["--pair", "k"], "--pair takes 2 words, KEY VALUE, without ="),
                      (["--pair", "k", "--none"], "--pair takes 2 words"),
                      (["--many", "--one", "1"], "--many takes a value"),
                      (["--one"], "--one takes a value")):
        with pytest.raises(ValueError, match=said):
            run(bad)
    for value in ("0", "10", "1.5", "x", "nan"):
        with pytest.raises(typer.BadParameter) as refusal:
            run(["--one", value])
        assert common.sentence(refusal.value) == (
            f"--one: a whole number from 1 to 9 is needed, not '{value}' (see `x --help`).")


# ------------------------------------------------------------------------------------------- train


def test_train_says_what_it_does_records_and_then_loads(call, home):
    code, out, err = call(*TINY)
    assert code == 0 and err == "" and "\r" not in out and "\x1b" not in out
    s = lab.setting("cross_entropy", rate=0.6, epochs=3, max_samples=200)
    run = runs.lookup(s)
    place = f"data/runs/digits/symmetric-0.60/cross_entropy/smoke-0-{s.key}"
    assert out.startswith("cross_entropy on digits, symmetric 60%, smoke budget, seed 0\n")
    assert "180 of 1,297 images to train on, 20 kept as noisy validation" in out
    assert "tiny, 3 epochs, batches of 64, float32" in out and "lr=0.05" in out
    assert f"record      {place}\n" in out and "now         it will be trained" in out
    assert "not known yet" in out
    lines = re.findall(r"^train  epoch (\d)/3  test +(\S+) %  val +\S+ %  loss \S+  \S+ s(.*)$",
                       out, re.M)
    assert [k for k, _, _ in lines] == ["1", "2", "3"]
    assert [float(t) for _, t, _ in lines] == pytest.approx(100 * run.epochs["test"], abs=0.006)
    assert [bool(re.fullmatch(r"  ETA \S+ s", eta)) for _, _, eta in lines] == [True, True, False]
    end = out.split("test accuracy\n")[1]
    for name, value in (("last epoch", run.last()), ("mean of last 3", run.mean_last()),
                        ("by noisy validation", run.by_validation()),
                        ("best on test", run.best())):
        assert re.search(rf"^  {name} +{100 * value:.2f} %", end, re.M), name
    assert "an oracle" in end and f"{100 * run.info['realised_rate']:.2f} % of the training" in end
    assert end.endswith(f"record      {place}\n")

    code, again, _ = call(*TINY)
    assert code == 0 and "finished on" in again and "it is loaded" in again
    assert (
        "epoch 1/3" not in again
        and again.split("test accuracy")[1] == out.split("test accuracy")[1]
    )

    code, dry, _ = call(*TINY, "--seed", "1", "--dry-run")
    assert code == 0 and "(from 1 recorded run like it on this machine)" in dry
    assert len(runs.find()) == 1


def test_an_interrupted_run_goes_on(call, monkeypatch, home):
    """Ctrl-C in the third epoch; the same command trains that epoch and no other."""
    starts, set_lr = [], engine.set_lr

    def interrupt(optimiser, lr):
        starts.append(lr)
        if len(starts) in (1, 4):
            signal.raise_signal(signal.SIGINT)
        set_lr(optimiser, lr)

    monkeypatch.setattr(engine, "set_lr", interrupt)
    code, out, err = call(*TINY)
    assert code == 130 and err == ("noisylabels: stopped before the end of the first epoch; the "
                                   "same command starts it anew.\n")
    code, out, err = call(*TINY)
    assert code == 130 and "epoch 2/3" in out and "epoch 3/3" not in out
    assert err == "noisylabels: stopped after epoch 2; the same command goes on from there.\n"
    code, out, _ = call("doctor", "--quick")
    assert code == 0 and "1 run begun and not finished" in out
    code, out, _ = call(*TINY)
    assert code == 0 and "begun before: it goes on after epoch 2" in out
    assert "epoch 2/3" not in out and "epoch 3/3" in out and len(starts) == 5
    interrupted = runs.find()[0].epochs["loss"]
    np.testing.assert_array_equal(interrupted, lab.watch(
        lab.setting("cross_entropy", rate=0.6, epochs=3, max_samples=200))[0].epochs["loss"])


@pytest.mark.parametrize("lacks", ["rows", "epoch", "signals"])
def test_a_checkpoint_that_lacks_something_is_named(call, home, monkeypatch, lacks):
    s = lab.setting("cross_entropy", rate=0.6, epochs=3, max_samples=200)
    set_lr, seen = engine.set_lr, []

    def interrupt(optimiser, lr):
        seen.append(lr)
        if len(seen) == 2:
            raise KeyboardInterrupt
        set_lr(optimiser, lr)

    monkeypatch.setattr(engine, "set_lr", interrupt)
    assert call(*TINY)[0] == 130
    file = home / "data" / "cache" / "checkpoints" / s.key / "block-0.pt"
    held = torch.load(file, weights_only=True)
    del held[lacks]
    torch.save(held, file)
    code, _, err = call(*TINY)
    assert code == 1 and f"block-0.pt cannot be read (it has no '{lacks}'); delete" in err


def test_a_damaged_checkpoint_is_named(call, home):
    s = lab.setting("cross_entropy", rate=0.6, epochs=3, max_samples=200)
    folder = home / "data" / "cache" / "checkpoints" / s.key
    folder.mkdir(parents=True)
    (folder / "block-0.pt").write_bytes(b"nonsense")
    code, out, err = call(*TINY)
    assert code == 1 and "it will be trained" in out and "delete its folder" in err


def test_a_failed_run_says_so_and_is_tried_again_only_on_demand(call):
    bad = [*TINY, "--set", "lr=1e9", "--set", "momentum=0.99"]
    code, _, err = call(*bad)
    assert (
        code == 1 and "are no numbers" in err and "recorded as failed in data/runs/digits" in err
    )
    code, out, err = call(*bad)
    assert code == 1 and "--again trains it once more" in out and "this run failed before" in err
    code, out, err = call(*bad, "--again")
    assert code == 1 and "are no numbers" in err and "recorded as failed" in err
    code, out, _ = call("runs", "list", "--failed")
    assert code == 0 and "are no numbers" in out and "1 failed run in data/runs" in out
    assert "1 failed (--failed lists them)" in call("runs")[1]
    code, out, _ = call("runs", "show", "cross_entropy")
    assert code == 0 and "are no numbers" in out
    refused(call("runs", "compare"), "1 recorded runs match and none of them is finished")


@pytest.mark.parametrize("words, said", [
    (["--method", "gcee"], "did you mean 'gce'"),
    (["--method", "gce", "--dataset", "cifar11"], "(nearest: cifar10)"),
    (["--method", "gce", "--noise", "symetric"], "(nearest: symmetric)"),
    (["--method", "gce", "--budget", "larptop"], "allowed: smoke, laptop, desk, fast, paper"),
    (["--method", "gce", "--network", "smal"], "'small'"),
    (["--method", "gce", "--epochs", "2", "--set", "epochs=3"], "epochs is given twice"),
    (["--method", "gce", "--set", "q"], "--set takes KEY=VALUE, such as --set lr=0.1, not 'q'"),
    (["--method", "gce", "--set", "q=1", "--set", "q=2"], "--set q=... is given twice"),
    (["--method", "gce", "--set", "qq=1"], "unknown option 'qq' (nearest: q)"),
    (["--method", "gce", "--set", "q=much"], "option 'q' takes float, not 'much'"),
    (["--method", "gce", "--set", "noise_seed=1"], "use --noise-seed"),
    (["--method", "gce", "--rate", "1.5"], "a number from 0 to 1, such as 0.4, is needed, not"),
    (["--method", "gce", "--rate", "40%"], "a number from 0 to 1, such as 0.4, is needed, not '4"),
    (["--method", "gce", "--val-fraction", "10%"], "--val-fraction: a number from 0 to 1"),
    (["--method", "GCE"], "did you mean 'gce'"),
    (["--method", "gce", "--dataset", "CIFAR10"], "(nearest: cifar10)"),
    (["--method", "gce", "--dataset", "cifar10", "--noise", "human-worse", "--rate", "0.4",
      "--dry-run"], "--rate 0.4 goes not with human-worse"),
    (["--method", "gce", "--set", "schedule=steps", "--set", "milestones=50", "--epochs", "10"],
     "milestones (50) must not exceed epochs (10)"),
    (["--method", "l2r", "--trusted-per-class", "127", "--dry-run"],
     "trusted_per_class 127 is too many: the smallest class has only 126 of the images"),
    (["--method", "gce", "--device", "cpu:x"], "allowed: auto, cpu, cuda, cuda:k"),
    (["--method", "gce", "--device", "cudax"], "allowed: auto, cpu, cuda, cuda:k"),
    (["--method", "gce", "--epochs", "0"], "--epochs: a whole number from 1 on is needed, no"),
    (["--method", "gce", "--epochs", "1.5"], "a whole number from 1 on is needed, not '1.5'"),
    (["--method", "gce", "--seed", "-1"], "from 0 to 4294967295 is needed, not '-1'"),
    (["--method", "gce", "--seed", "abc"], "--seed: a whole number from 0 to 4294967295 is"),
    (["--method", "gce", "--seed", "4294967296"], "--seed: a whole number from 0 to 4294967295"),
    (["--method", "gce", "--init-seed", "99999999999"], "--init-seed: a whole number from 0 to"),
    (["--method", "gce", "--seed", "1", "--split-seed", "1", "--noise-seed", "2", "--init-seed",
      "3", "--dry-run"], "--seed has nothing to decide beside --split-seed"),
    (["--method", "gce", "--noise", "human"], "people's labels are human-aggre, human-worse, hum"),
    (["--method", "gce", "--noise", "human-worse"], "unknown noise 'human-worse' (of cifar10)"),
    (["--method", "gce", "--budget", "laptop"], "wrn28-10; the smoke budget takes tiny, the "
     "laptop budget is made for CIFAR."),
    (["--method", "gce", "--set", "batch_size=inf"], "'batch_size' takes int, not 'inf'"),
    (["--method", "gce", "--set", "lr=-1"], "lr must be a number in [0, 1000000000], not -1"),
    (["--method", "gce", "--set", "lr=nan"], "lr must be a number in [0, 1000000000], not nan"),
    (["--method", "gce", "--set", "momentum=-1"], "momentum must be a number in [0, 1), not -1"),
    (["--method", "gce", "--set", "weight_decay=inf"], "weight_decay must be a number in"),
    (["--method", "gce", "--noise", "none", "--rate", "0.4"], "'none' takes rate 0 or None"),
    (["--method", "gce", "--noise", "none", "--rate", "0.4", "--dry-run"], "takes rate 0 or None"),
    (["--method", "gce", "--noise", "superclass", "--dry-run"], "needs superclasses"),
    (["--method", "gce", "--threads", "0"], "a whole number of threads from 1 to"),
    (["--method", "gce", "--threads", "100000"], "a whole number of threads from 1 to"),
    (["--method", "gce", "--threads", "inf"], "a whole number of threads from 1 to"),
    (["--method", "gce", "--max-samples", "3"], "max_samples 3 is too few: digits has 10"),
    (["--method", "gce", "--device", "tpu"], "allowed: auto, cpu, cuda, cuda:k"),
    (["--method", "gce", "--device", "cpu", "--graph"], "needs a GPU"),
])
def test_bad_values_are_refused(call, words, said):
    answer = call("train", *words)
    refused((answer[0], "", answer[2]), said)
    assert runs.find(finished=False) == []


def resolved(*words: str) -> Setting:
    given = typer.main.get_command(train.app).make_context("train", ["--method", "gce", *words])
    how = ("threads", "compile", "graph", "signals", "again", "dry_run")
    return train.resolve(**{k: v for k, v in given.params.items() if k not in how})


def test_budget_and_samples_by_default(monkeypatch):
    assert resolved().budget == "smoke" and resolved().rate == 0.4
    s = resolved("--dataset", "cifar10", "--network", "small", "--epochs", "1", "--device", "cpu")
    assert (s.budget, s.max_samples, s.options["epochs"]) == ("laptop", None, 1)
    assert cost.images(s) == cost.Images(
        train=45_000, val=5_000, trusted=0, test=10_000, all=50_000
    )
    explicit = resolved("--dataset", "cifar10", "--budget", "laptop")
    assert explicit.max_samples == 10_000
    assert resolved("--dataset", "cifar10", "--budget", "laptop", "--max-samples", "0") == (
        resolved("--dataset", "cifar10", "--device", "cpu"))
    short = resolved("--dataset", "cifar10", "--max-samples", "500", "--device", "cpu")
    assert short.max_samples == 500 and short.budget == "laptop"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved("--dataset", "cifar10").budget == "fast"
    assert resolved("--dataset", "cifar10", "--device", "cpu").budget == "laptop"


def test_every_argument_reaches_the_setting():
    s = resolved("--split-seed", "1", "--noise-seed", "2", "--init-seed", "3", "--set", "q=0.5",
                 "--set", "weight-decay=0", "--trusted-per-class", "2", "--val-fraction", "0.2",
                 "--noise", "symmetric-exclusive", "--rate", "0.3", "--network", "wrn10-1")
    assert (s.split_seed, s.noise_seed, s.init_seed) == (1, 2, 3)
    assert (s.options["q"], s.options["weight_decay"], s.options["network"]) == (
        0.5,
        0.0,
        "wrn10-1",
    )
    assert (s.trusted_per_class, s.val_fraction, s.noise, s.rate) == (
        2,
        0.2,
        "symmetric-exclusive",
        0.3,
    )
    assert cost.images(s) == cost.Images(train=1022, val=255, trusted=20, test=500, all=1297)
    assert resolved("--noise", "none").rate == 0.0
    human = resolved("--dataset", "cifar10", "--noise", "human-worse", "--device", "cpu")
    assert human.rate == 1.0


def test_counts_agree_with_what_is_trained(home):
    s = resolved("--trusted-per-class", "2", "--val-fraction", "0.2", "--max-samples", "301")
    task, truth = lab.prepare(s)
    n = cost.images(s)
    assert (n.train, n.val, n.trusted) == (len(task), len(truth.y_val), len(task.trusted[1]))
    d = datasets.load("digits")
    assert cost.SIZES["digits"] == (len(d.x_train), len(d.x_test), d.num_classes, d.channels, 8)


def test_missing_images_are_no_traceback(call):
    words = ("train", "--method", "gce", "--dataset", "cifar10", "--device", "cpu")
    for more in ((), ("--dry-run",)):
        code, out, err = call(*words, *more)
        assert code == 1 and "it cannot be trained" in out and err == (
            "noisylabels: this run needs what is not here: cifar10 (`noisylabels doctor "
            "--download cifar10`).\n")


def test_a_short_run_on_real_images(call, monkeypatch, data_root):
    monkeypatch.setenv("NOISYLABELS_DATA", str(data_root))
    words = ("--method cross_entropy --dataset cifar10 --noise symmetric --rate 0.4 "
             "--network small --epochs 1 --max-samples 1000 --device cpu")
    code, out, _ = call("train", *words.split())
    assert code == 0 and "900 of 50,000 images" in out and "train  epoch 1/1  test" in out


ROW = {"stage": "train", "epoch": 4, "stage_epoch": 1, "stage_epochs": 10, "test": 0.5,
       "val": math.nan, "loss": 1.25, "seconds": 2.0, "seconds_evaluating": 1.0}


def test_a_terminal_gets_a_bar_below_the_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "99")
    screen = Terminal()
    progress = train.Progress(screen, done=3)
    with progress.bar:
        progress.bar.refresh()
        assert "epoch 4 " in screen.getvalue()  # the first epoch shows its time already
        progress({**ROW, "stage": "warm-up"})
        progress.bar.refresh()
        assert "warm-up  epoch 2/10 " in screen.getvalue() and "━" in screen.getvalue()
    text = screen.getvalue()
    assert "warm-up  epoch  1/10  test  50.00 %  val        –  loss 1.25" in text
    assert text.endswith("\x1b[2K") and progress.epochs == 4
    (task,) = progress.bar.tasks
    assert (task.completed, task.total) == (1, 10)


def test_a_terminal_that_cannot_go_back_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    progress = train.Progress(screen)
    with progress.bar:
        progress(ROW)
    assert "\x1b" not in screen.getvalue() and screen.getvalue().count("\n") == 1


def test_a_log_gets_plain_lines():
    log = io.StringIO()
    progress = train.Progress(log)
    with progress.bar:
        progress.waiting()
        progress(ROW)
        progress({**ROW, "epoch": 5, "stage_epoch": 10})
    assert log.getvalue() == (
        "another process is training this run; waiting for it\n"
        "train  epoch  1/10  test  50.00 %  val        –  loss 1.2500  3.0 s  ETA 27 s\n"
        "train  epoch 10/10  test  50.00 %  val        –  loss 1.2500  3.0 s\n")


def test_threads(monkeypatch):
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    engine.set_threads(None)
    engine.set_threads(3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    engine.set_threads(None)
    assert used == [3, 1]


# -------------------------------------------------------------------------------------------- runs


def record(seed: int = 0, tests=(0.5, 0.8, 0.7), val=(0.1, 0.3, 0.2), **changes) -> runs.Run:
    values = dict(method="gce", dataset="digits", noise="symmetric", rate=0.4, budget="smoke",
                  options={"q": 0.7, "network": "tiny", "epochs": 3}, split_seed=seed,
                  noise_seed=seed, init_seed=seed)
    rows = [{"stage": "train", "epoch": i + 1, "test": t, "val": v, "loss": 1.0, "lr": 0.05,
             "seconds": 2.0, "seconds_evaluating": 0.5}
            for i, (t, v) in enumerate(zip(tests, val, strict=True))]
    info = {"status": "finished", "realised_rate": 0.36, "seconds": 120.0 + seed,
            "seconds_per_epoch": 2.0, "hardware": "abacus", "versions": {"torch": "2"},
            "samples": 1167, "validation": 130, "trusted": 0, "commit": "abc", "date": "today"}
    return runs.save(Setting(**{**values, **changes}), info, rows)


def test_runs_list_filters_and_counts(call):
    code, out, _ = call("runs", "list")
    assert (code, out) == (0, "0 runs in data/runs\n")
    one, two = record(), record(1, method="mixup", dataset="cifar10", budget="laptop", rate=0.8)
    code, out, _ = call("runs")
    lines = out.splitlines()
    assert lines[0].split() == ["dataset", "noise", "rate", "method", "budget", "seed", "epochs",
                                "last", "mean10", "by", "val", "best*", "time", "name"]
    assert lines[1].split() == ["cifar10", "symmetric", "0.80", "mixup", "laptop", "1", "3",
                                "70.00", "66.67", "80.00", "80.00", "2.0", "min", two.setting.key]
    assert lines[-1] == "2 runs in data/runs"
    for words in (("--method", "gce"), ("--dataset", "digits"), ("--budget", "smoke"),
                  ("--rate", "0.4")):
        out = call("runs", *words)[1]
        assert one.setting.key in out and two.setting.key not in out and "1 run in" in out
    refused(call("runs", "--method", "mixupp"), "unknown method 'mixupp' (nearest: 'mixup')")
    refused(
        call("runs", "--budget", "smok"), "(nearest: 'smoke'); allowed: desk, fast, laptop, paper"
    )
    refused(call("runs", "--noise", "asymmetric"), "(nearest: 'symmetric')")


def test_runs_show(call):
    run = record()
    code, out, _ = call("runs", "show", run.setting.key)
    assert code == 0 and "gce on digits, symmetric 40%, smoke budget, seed 0" in out
    assert "q=0.7" in out and "36.00 % (nominal 40%)" in out and "commit abc, today" in out
    assert "1,167 trained on, 130 for noisy validation, 0 trusted" in out
    assert "by noisy validation  80.00 %, epoch 2" in out and "abacus" in out
    # first, last, least, greatest
    assert re.search(r"^test +50.00 +70.00 +50.00 +80.00$", out, re.M)
    assert re.search(r"^val +10.00 +20.00 +10.00 +30.00$", out, re.M)
    assert re.search(r"^train +2 +80.00 +30.00 +1 +0.05 +2$", out, re.M)
    refused(call("runs", "show", "smoke-7-12345678"), "0 runs match", "the nearest is digits/")


def test_a_long_table_is_thinned(call):
    record(tests=np.linspace(0.1, 0.9, 40), val=[math.nan] * 40)
    out = call("runs", "show", "gce")[1]
    assert "15 of 40 epochs; --epochs shows all" in out and "by noisy validation  –\n" in out
    assert re.search(r"^train +1 +10.00 ", out, re.M) and re.search(
        r"^train +40 +90.00 ", out, re.M
    )
    everything = call("runs", "show", "gce", "--epochs")[1]
    assert len(re.findall(r"^train ", everything, re.M)) == 40 and "of 40 epochs" not in everything


def test_compare_takes_means_over_seeds_and_never_mixes_budgets(call):
    record(0, tests=(0.5, 0.8, 0.7)), record(1, tests=(0.5, 0.8, 0.9))
    record(0, tests=(0.1, 0.2, 0.3), options={"q": 0.5, "network": "tiny", "epochs": 3})
    record(2, tests=(0.1, 0.2, 0.6), val=[math.nan] * 3, budget="laptop")
    code, out, _ = call("runs", "compare")
    assert code == 0
    smoke, laptop = out.split("laptop budget\n")
    assert smoke.startswith("smoke budget\n")
    # 0.7 and 0.9: mean 80, sample std sqrt(0.02) = 14.14; by val: epoch 2 of both
    assert re.search(r"gce +2 +36.00 +80.00 ± 14.14 +70.00 ± 4.71 +80.00 ± 0.00 +85.00 ± 7.07 +"
                     r"2.0 min +q=0.7$", smoke, re.M)
    assert re.search(r"gce +1 +36.00 +30.00 +20.00 +20.00 +30.00 +2.0 min +q=0.5$", smoke, re.M)
    assert re.search(r"gce +1 +36.00 +60.00 +30.00 +– +60.00 +2.0 min$", laptop, re.M)
    assert "options" not in laptop and "sample standard deviation over n seeds" in laptop
    out = call("runs", "compare", "smoke-0", "smoke-1", "--dataset", "digits")
    refused(out, "names of runs or filters")


def test_compare_by_name_or_filter(call):
    a, b = record(0), record(1)
    named = call("runs", "compare", a.setting.key, b.setting.key, a.setting.key)[1]
    assert named == call("runs", "compare", "--method", "gce", "--rate", "0.4")[1]
    runs.save(Setting("gce", "digits", "symmetric", 0.4, "smoke", split_seed=9),
              {"status": "failed", "why": "x"}, [])
    assert "1 failed run left out" in call("runs", "compare")[1]
    code, out, _ = call("runs", "show", "smoke-9.0.0")
    assert code == 0 and "FAILED: x" in out and "not recorded trained on" in out
    refused(call("runs", "compare", "--rate", "0.5"), "nothing to compare: 0 recorded runs match")


def test_a_damaged_record_is_named(call):
    run = record()
    (run.folder / "run.json").write_text("{")
    code, _, err = call("runs")
    assert code == 1 and "is damaged" in err and "delete that folder" in err
    code, out, err = call("doctor", "--quick")
    assert (
        code == 1 and "BROKEN" in out and "1 thing to mend:" in err and "delete that folder" in err
    )


def test_doctor_goes_on_after_a_record_that_lacks_a_fact(call, home, monkeypatch):
    monkeypatch.setattr(cost, "time_steps", lambda network, dataset, *_: cost.Timing(
        network, 1e-3, *cost.SIZES[dataset][3:]))
    first, second, _ = record(0, options=lab.setting("gce").options), record(1), record(2)
    facts = json.loads((first.folder / "run.json").read_text())
    del facts["seconds"]
    facts["hardware"] = engine.hardware("cpu")
    (first.folder / "run.json").write_text(json.dumps(facts))
    (second.folder / "epochs.csv").write_text("stage,test\n")
    code, out, err = call("doctor")
    assert code == 1 and "2 things to mend:" in err and "1 finished run, 0 failed" in out
    assert f"{first.folder / 'run.json'} is damaged (it has no 'seconds')" in err
    assert f"{second.folder} is damaged (epochs.csv: " in err
    assert "what one run costs here" in out and re.search(r"^gce .* ~", out, re.M)


def test_doctor_tells_costs_beside_a_store_that_cannot_be_read(call, monkeypatch):
    monkeypatch.setattr(cost, "time_steps", lambda network, dataset, *_: cost.Timing(
        network, 1e-3, *cost.SIZES[dataset][3:]))

    def unreadable():
        raise runs.StoreError("data/runs cannot be read.")

    monkeypatch.setattr(runs, "scan", unreadable)
    code, out, err = call("doctor")
    assert code == 1 and "  1. data/runs cannot be read." in err
    assert re.search(r"^gce .* ~", out, re.M)


# ------------------------------------------------------------------------- the code's commit


def git(folder, *words) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True,
                          text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_code_wherever_the_runs_lie(home, monkeypatch):
    monkeypatch.delenv("NOISYLABELS_COMMIT", raising=False)
    git(home, "init", "-q")
    git(home, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    other = git(home, "rev-parse", "--short=12", "HEAD")
    if (REPO / ".git").exists():
        assert lab.commit().rstrip("+") == git(REPO, "rev-parse", "--short=12", "HEAD") != other
    # an installed copy: of the project folder
    monkeypatch.setattr(provenance, "__file__",
                        str(home / "lib" / "site-packages" / "noisylabels" / "lab" / "x"))
    assert lab.commit() == other
    monkeypatch.setenv("NOISYLABELS_COMMIT", "said")
    assert lab.commit() == "said"


# ------------------------------------------------------------------------------------------- pages

PARAMETERS = """seed: int = 0  # of all draws
rate = 0.4  # share, 0.4 = 40 %
budget = 'smoke'
rates = [0.2, 0.4]
methods = ['gce']
cap: int | None = None
anything = None
fast = False
grid: "list[float]" = [
    0.1, 1.0]
made = rate * 2
"""


def notebook(path, *cells, tags=("parameters",)):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [
        {"cell_type": "markdown", "metadata": {}, "id": "title", "source": ["# A tiny page\n"]}
    ]
    for i, source in enumerate(cells):
        made.append({"cell_type": "code", "source": source, "outputs": [], "id": f"cell-{i}",
                     "metadata": {"tags": list(tags) if i == 0 else []},
                     "execution_count": None})
    content = {
        "cells": made,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def page(home):
    return notebook(home / "notebooks" / "tiny.ipynb", PARAMETERS,
                    "import os\nprint(seed, rate, budget, os.environ['OMP_NUM_THREADS'])",
                    "assert rate < 1, 'the rate is too large.'")


def test_pages_and_their_parameters_are_listed(call, page, home):
    assert call("page", "--list")[1].splitlines()[-1].split(maxsplit=1) == ["tiny", "A tiny page"]
    code, out, _ = call("page", "tiny", "--help-parameters")
    table = [re.split(r" {2,}", line) for line in out.splitlines()[1:]]
    assert code == 0 and table == [
        ["seed", "int", "0", "of all draws"], ["rate", "float", "0.4", "share, 0.4 = 40 %"],
        ["budget", "str", "'smoke'"], ["rates", "list[float]", "[0.2, 0.4]"],
        ["methods", "list[str]", "['gce']"], ["cap", "int or None", "None"],
        ["anything", "any", "None"], ["fast", "bool", "False"],
        ["grid", "list[float]", "[0.1, 1.0]"], ["made", "any", "rate * 2"]]
    notebook(home / "notebooks" / "bare.ipynb", "x = 1", tags=())
    assert call("page", "bare", "--help-parameters")[1] == "bare.ipynb has no parameters.\n"
    page.unlink(), (home / "notebooks" / "bare.ipynb").unlink()
    assert call("page", "--list")[1] == "no notebooks in notebooks\n"


@pytest.mark.parametrize("given, value", [
    (("cap", "-3"), -3), (("rate", "1"), 1.0), (("rate", "1e-5"), 1e-5), (("budget", "7"), "7"),
    (("rates", "[1, 0.5]"), [1.0, 0.5]), (("rates", "(0.1,)"), [0.1]), (("cap", "none"), None),
    (("cap", "7"), 7), (("anything", "{'a': 1}"), {"a": 1}), (("anything", "word"), "word"),
    (("fast", "True"), True), (("grid", "[]"), []), (("methods", "['a', 'b']"), ["a", "b"]),
])
def test_parameters_are_read_as_their_type(page, given, value):
    read = page_checks.checked([list(given)], page_checks.parameters_of(page), page)[given[0]]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("given, said", [
    (("sead", "3"), "tiny has no parameter 'sead' (nearest: 'seed'); allowed: seed, rate, budget"),
    (("seed", "3.5"), "parameter 'seed' takes int, such as 3, not '3.5' (default 0)"),
    (("rate", "high"), "takes float, such as 0.4, not 'high'"),
    (("fast", "1"), "takes bool, true or false, not '1'"),
    (("rates", "0.3"), "takes list of float, such as [0.2, 0.4], not '0.3'"),
    (("rates", "[0.3, 'a']"), "takes list of float"), (("grid", "[True]"), "takes list of float"),
    (("cap", "many"), "takes int, such as 3 or None, not 'many'"),
])
def test_wrong_parameters_are_refused_before_anything_runs(call, page, home, given, said):
    refused(call("page", "tiny", "-p", *given), said)
    assert not (home / "_build").exists()


@pytest.mark.parametrize("given, said", [
    (("draws", "1"), "parameter 'draws' takes 2 or more, not 1 (repetitions, 2 or more; default"),
    (("share", "1.5"), "takes 0 to 0.85, not 1.5"), (("share", "nan"), "takes a finite number"),
    (("share", "-0.1"), "takes 0 to 0.85"), (("some", "15"), "takes at most 14, not 15"),
    (("some", "-1"), "takes at most 14"), (("noise", "0"), "takes above 0, not 0.0"),
    (("shares", "[0.2, 2]"), "takes 0 to 1, not 2.0"), (("share", "inf"), "finite number"),
])
def test_a_range_that_a_parameters_comment_names_is_kept(call, home, given, said):
    path = notebook(home / "notebooks" / "ranges.ipynb",
                    "draws: int = 200  # repetitions, 2 or more\nshare = 0.6  # wrong, 0 to 0.85\n"
                    "some: int = 14  # images, at most 14\nnoise = 0.6  # drawn anew, above 0\n"
                    "shares = [0.2]  # each 0 to 1\n")
    refused(call("page", "ranges", "-p", *given), said)
    known = page_checks.parameters_of(path)
    fits = [["draws", "2"], ["share", "0.85"], ["some", "0"], ["noise", "0.1"], ["shares", "[1]"]]
    assert list(page_checks.checked(fits, known, path).values()) == [2, 0.85, 0, 0.1, [1.0]]


@pytest.mark.parametrize("name, parameter, value", [
    ("noise_models", "draws", "1"), ("labels_go_wrong", "epochs", "0"), ("neighbours", "k", "0"),
    ("memorisation", "num_seeds", "0"), ("mixnn", "seeds", "0"), ("drpl", "seeds", "0"),
    ("ieg", "seeds", "0"), ("sanm", "seeds", "-1"), ("small_loss", "noise_rate", "0"),
    ("mixnn", "noise_rate", "1.2"), ("labels_go_wrong", "gallery", "15")])
def test_the_pages_name_the_ranges_of_their_parameters(name, parameter, value):
    path = REPO / "notebooks" / f"{name}.ipynb"
    with pytest.raises(ValueError, match=f"parameter '{parameter}' takes .*, not {value}"):
        page_checks.checked([[parameter, value]], page_checks.parameters_of(path), path)


PAGES = sorted((REPO / "notebooks").glob("*.ipynb"))


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(page_command, "run", lambda *a: pytest.fail("a kernel was started"))


@pytest.mark.parametrize("about, offered", [
    ("digits | cifar10 | cifar100", ("digits", "cifar10", "cifar100")),
    ("of the run of your own: digits | cifar10", ("digits", "cifar10")),
    ("smoke (digits, seconds) | laptop | paper (hours: on one GPU)", ("smoke", "laptop", "paper")),
    ("a share, 0 to 1", ()), ("", ()), ("digits, cifar10 or cifar100", ()),
])
def test_choices_are_read_from_a_comment(about, offered):
    assert page_checks.choices(about) == offered


def test_a_text_that_a_parameters_comment_does_not_offer_is_refused(call, home, no_kernel):
    path = notebook(home / "notebooks" / "choices.ipynb",
                    'data: str = "a"  # where from: a | bee (made up) | c\n'
                    'many = ["a"]  # a | bee\nnoise = "x"  # which; not "none"\n'
                    'odd: str = "z"  # a | b\n')
    refused(call("page", "choices", "-p", "data", "be"),
            "parameter 'data' takes a, bee or c, not 'be' (nearest: 'bee').")
    refused(call("page", "choices", "-p", "many", "['a', 'x']"), "takes a or bee, not 'x'.")
    refused(call("page", "choices", "-p", "noise", "none"), "takes all but 'none' here")
    fits = [["data", "bee"], ["many", "['bee']"], ["noise", "y"], ["odd", "z"]]  # its default too
    assert list(page_checks.checked(fits, page_checks.parameters_of(path), path).values()) == [
        "bee", ["bee"], "y", "z"]
    assert not (home / "_build").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_page_takes_a_word_that_it_does_not_know(call, home, no_kernel, page):
    tried = 0
    for name, parameter in page_checks.parameters_of(page).items():
        for kind, values in (("str", ("no such thing",)), ("int", ("-1", "99999999999")),
                             ("float", ("nan", "-0.1", "1.5"))):
            for value in values if kind in parameter.kinds else ():
                tried += 1
                code, out, err = call("page", page, "-p", name, value)
                assert (code, out, err.count("\n")) in ((2, "", 1), (1, "", 1)), (name, value, err)
                assert "Traceback" not in err and len(err) < 700
    assert tried or not page_checks.parameters_of(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages_offer_what_the_library_knows(page):
    """A new data set or budget is named in the pages' comments too."""
    known = page_checks.parameters_of(page)
    for name, words in (("dataset", datasets.NAMES), ("budget", runs.BUDGETS),
                        ("photographs", photographs.WAYS)):
        if name in known:
            assert page_checks.choices(known[name].about) == tuple(words), name


@pytest.mark.parametrize("name, given, said", [
    ("memorisation", "dataset mnist", "'dataset' takes digits, cifar10 or cifar100, not 'mnist'"),
    ("memorisation", "budget lap", "takes smoke, laptop, desk, fast or paper, not 'lap' (nearest"),
    ("memorisation", "dataset cifar10", "the smoke budget is made for the digits; use laptop"),
    ("memorisation", "budget laptop", "'small' does not fit the images of digits"),
    ("neighbours", "noise none", "takes all but 'none' here"),
    ("small_loss", "noise symetric", "unknown noise 'symetric' (nearest: symmetric)"),
    ("small_loss", "noise superclass", "needs superclasses"),
    ("small_loss", "noise human", "human-noisy_fine of cifar100"),
    ("neighbours", "noise semantic noise_rate 1", "its rate must lie in [0, 1)"),
    ("drpl", "noise ood-uniform", "unknown noise 'ood-uniform' (of cifar10 and cifar100)"),
    ("drpl", "noise none", "'none' takes rate 0 or None, not 0.6"),
    ("drpl", "dataset cifar100 budget laptop noise human-aggre", "(of cifar10)"),
    ("mixnn", "methods mixnn,gcee", "unknown method 'gcee'"),
    ("mixnn", "methods gce,gce", "'methods' names 'gce' twice"), ("ieg", "methods ", "method ''"),
    ("sanm", "photographs hear", "takes recorded, here or record, not 'hear' (nearest: 'here')"),
    ("ledger", "runs_folder /dev/null", "/dev/null is no folder; name one that holds recorded"),
    ("ledger", "state reproducd", "unknown state 'reproducd' (nearest: 'reproduced')"),
    ("speed", "network resnet7", "unknown network 'resnet7'"),
    ("speed", "hardware cray", "no recorded result is from 'cray'"),
    ("sanm", "seed 4294967296", "'seed' takes a whole number from 0 to 4294967295"),
])  # fmt: skip
def test_pages_refuse_what_their_runs_would_before_a_kernel_starts(
        call, home, no_kernel, name, given, said):
    words = given.split(" ")
    pairs = [x for k in range(0, len(words), 2) for x in ("-p", words[k], words[k + 1])]
    refused(call("page", REPO / "notebooks" / f"{name}.ipynb", *pairs), said)


@pytest.mark.parametrize("name, given, needs", [
    ("memorisation", "dataset cifar10 budget laptop", "doctor --download cifar10"),
    ("drpl", "dataset cifar100 budget laptop seeds 1", "doctor --download cifar100"),
    ("mixnn", "photographs here", "doctor --download cifar10"),
    ("neighbours", "photographs record", "doctor --download cifar10"),
])
def test_a_page_says_which_images_it_lacks_before_it_runs(call, home, no_kernel, name, given,
                                                          needs):
    words = given.split()
    pairs = [x for k in range(0, len(words), 2) for x in ("-p", words[k], words[k + 1])]
    code, out, err = call("page", REPO / "notebooks" / f"{name}.ipynb", *pairs)
    assert (code, out) == (1, "") and needs in err and err.count("\n") == 1


def test_recorded_runs_need_no_images(home, monkeypatch):
    """A page that loads all its runs is not told to fetch images."""
    s = lab.setting("gce", "cifar10", "symmetric", 0.4, "laptop", 0)
    runs.save(s, {"status": "finished", "last": 0.5, "epochs": 1, "seconds": 1.0,
                  "realised_rate": 0.36, "hardware": "x"},
              [{"stage": "train", "epoch": 1, "test": 0.5}])
    path = REPO / "notebooks" / "drpl.ipynb"
    known = page_checks.parameters_of(path)
    given = {"dataset": "cifar10", "budget": "laptop", "noise_rate": 0.4, "methods": "gce"}
    page_checks.check_runs({**given, "seeds": 1}, known, path)
    with pytest.raises(wording.Failed, match=r"drpl needs what is not here: cifar10 \("):
        page_checks.check_runs({**given, "seeds": 2}, known, path)


@pytest.mark.parametrize("words, said", [
    (["--list", "-p", "x", "1"], "--list lists the pages and takes no page, -p or -o"),
    (["tiny", "--list"], "--help-parameters"), (["--list", "-o", "x.ipynb"], "--list lists"),
    (["tiny", "-p", "seed=3", "4"], "-p takes two words, KEY VALUE: -p seed 3."),
    (["-p", "seed=3", "tiny"], "-p takes two words, KEY VALUE: -p seed 3."),
    (["tiny", "-p", "seed=3"], "-p takes 2 words, KEY VALUE, without = "),
    (["--list", "-p", "x=1"], "-p takes 2 words, KEY VALUE, without = "),
])
def test_pairs_are_two_words(call, page, no_kernel, words, said):
    refused(call("page", *words), said)


def test_page_stands_before_papermill_which_runs_defaults_for_a_misspelt_parameter():
    """README, the book and the first cells show the command that refuses."""
    texts = [REPO / "README.md", *(REPO / "book").glob("*.md"), *(REPO / "notebooks").glob("*")]
    for path in texts:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"papermill \S*(notebooks/|\.ipynb|--help-notebook)", line), path


def test_wrong_pages_are_refused(call, page, home):
    refused(call("page", "tinny"), "unknown page 'tinny' (nearest: 'tiny')")
    refused(call("page", "else/tinny.ipynb"), "no notebook else/tinny.ipynb (nearest: 'tiny')")
    refused(call("page"), "`noisylabels page --list` lists them")
    refused(call("page", "tiny", "-o", "x.html"), "must be named *.ipynb")
    refused(call("page", "tiny", "-o", "notebooks/tiny.ipynb"), "must not be the notebook itself")
    notebook(home / "bare.ipynb", "x = 1", tags=())
    refused(call("page", "bare.ipynb", "-p", "x", "2"), "no cell tagged `parameters`")
    (home / "text.ipynb").write_text("no json")
    refused(call("page", "text.ipynb"), "is not a notebook")
    notebook(home / "magic.ipynb", "%pip install x")
    refused(call("page", "magic.ipynb", "-p", "x", "2"), "is not plain Python")


@pytest.mark.parametrize("out, said", [
    ("notebooks/other.ipynb", "must not lie in notebooks/"),
    ("notebooks/below/x.ipynb", "must not lie in notebooks/"),
    ("book/executed/tiny.ipynb", "must not lie in book/executed/"),
    ("mine.ipynb", "mine.ipynb is there and no page of this command"),
    ("text.ipynb", "text.ipynb is there and no page of this command"),
    ("folder.ipynb", "folder.ipynb is there and no page of this command"),
    ("late.ipynb", "late.failed.ipynb is there and no page of this command"),
])
def test_a_page_takes_the_place_of_pages_alone(call, page, home, monkeypatch, out, said):
    monkeypatch.setattr(page_command, "run", None)
    notebook(home / "mine.ipynb", "x = 1")
    (home / "text.ipynb").write_text("no json")
    (home / "folder.ipynb").mkdir()
    (home / "late.failed.ipynb").write_text("{}")
    refused(call("page", "tiny", "-o", out), said)


def test_a_page_reads_the_datasets_of_the_command(call, page, home, monkeypatch):
    seen = []

    def popen(command, env, **_):
        seen.append(env["NOISYLABELS_DATA"])
        return Papermill(command)

    monkeypatch.setattr(page_command.subprocess, "Popen", popen)
    (home / "else").mkdir()
    monkeypatch.chdir(home / "else")
    monkeypatch.setenv("HOME", str(home))
    for said in ("images", "~/images"):
        monkeypatch.setenv("NOISYLABELS_DATA", said)
        call("page", "tiny")
    assert seen == [str((home / "else" / "images").resolve()), str((home / "images").resolve())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_page_that_is_told_to_end_leaves_no_process(page, home, number):
    """A papermill with a child of its own; both end with the command."""
    (home / "papermill.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "open('pids.part', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename('pids.part', 'pids')\n"
        "time.sleep(100)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "noisylabels", "page", "tiny"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "lib"), "PYTHONSAFEPATH": ""})
    pids, deadline = home / "pids", time.monotonic() + 30
    while not pids.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "noisylabels: stopped.\n") and "running tiny" in out
    for pid in pids.read_text().split():
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(pid)


def alive(pid: str) -> bool:
    """Whether it runs; one that has ended and waits to be asked how does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_page_runs_with_its_parameters(call, page, home):
    code, out, err = call(
        "page", "tiny", "-p", "seed", "3", "-p", "rate", "1e-5", "-p", "cap", "7"
    )
    assert (code, err) == (0, "") and "\r" not in out
    name = "_build/pages/tiny-cap-7-rate-1e-05-seed-3.ipynb"
    assert out.startswith("running tiny with seed=3, rate=1e-05, cap=7\ndone in ")
    assert out.endswith(f": {name}\n")
    ran = json.loads((home / name).read_text())
    said = "".join(o["text"][0] for c in ran["cells"] for o in c.get("outputs", []))
    assert said == "3 1e-05 smoke 1\n"
    assert ran["metadata"]["papermill"]["output_path"] == str(home / name)
    assert os.listdir(home / "_build" / "pages") == [name.rsplit("/")[-1]]


def test_a_failing_page_leaves_the_earlier_one(call, page, home):
    earlier = json.dumps({"cells": [], "metadata": {"papermill": {}}})
    (home / "out.ipynb").write_text(earlier)
    code, out, err = call("page", "tiny", "-p", "rate", "2", "-o", "out.ipynb")
    assert code == 1 and "done" not in out
    assert err == ("noisylabels: tiny failed in code cell 4 of 4 with AssertionError: the rate is "
                   "too large; what ran before it is in out.failed.ipynb.\n")
    assert (home / "out.ipynb").read_text() == earlier
    assert sorted(p.name for p in home.glob("*.ipynb")) == ["out.failed.ipynb", "out.ipynb"]


def test_braces_and_umlauts_in_paths_are_no_fields_of_papermill(call, page, home):
    folder = home / "Gerät {1} a b{x"
    page = notebook(folder / "notebooks" / "brace{1}.ipynb", "seed: int = 0", "print(seed + 1)")
    out = str(folder / "o{seed}.ipynb")
    code, _, err = call("page", str(page), "-p", "seed", "3", "-o", out)
    assert (code, err) == (0, "")
    ran = json.loads((folder / "o{seed}.ipynb").read_text(encoding="utf-8"))
    assert ran["cells"][-1]["outputs"][0]["text"] == ["4\n"]
    assert ran["metadata"]["papermill"]["output_path"] == str(folder / "o{seed}.ipynb")
    assert sorted(p.name for p in folder.iterdir()) == ["notebooks", "o{seed}.ipynb"]


def test_a_closed_folder_is_said_before_a_page_runs(call, page, home, monkeypatch):
    monkeypatch.setattr(page_command.subprocess, "Popen", None)

    def closed(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    for what in ("mkdir", "touch"):
        with monkeypatch.context() as here:
            here.setattr(pathlib.Path, what, closed)
            code, _, err = call("page", "tiny")
        assert code == 1 and err == ("noisylabels: no page can be written to _build/pages: "
                                     "Permission denied; name another place with -o.\n")


def test_a_full_disk_is_not_taken_for_a_bad_notebook(call, page, home, monkeypatch):
    class Full(Papermill):
        def communicate(self):
            with open(self.out, "w", encoding="utf-8") as f:
                f.write('{"cells": [')
            return None, "OSError: [Errno 28] No space left on device\n"

    monkeypatch.setattr(page_command.subprocess, "Popen", Full)
    code, _, err = call("page", "tiny")
    assert code == 1 and "not a notebook" not in err
    assert err == ("noisylabels: tiny failed (OSError: [Errno 28] No space left on device); its "
                   "output was cut off, so see whether the disk is full.\n")
    assert os.listdir(home / "_build" / "pages") == []

    class Late(Papermill):
        def communicate(self):
            self.returncode = 0
            notebook(pathlib.Path(self.out), "x = 1")
            return None, ""

    def no_space(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_command.subprocess, "Popen", Late)
    monkeypatch.setattr(pathlib.Path, "replace", no_space)
    code, _, err = call("page", "tiny")
    assert code == 1 and err == (
        "noisylabels: tiny ran, but _build/pages/tiny.ipynb could not be written: No space left "
        "on device; free the disk or name another place with -o.\n")
    assert os.listdir(home / "_build" / "pages") == []


class Papermill:
    """A process that does not end well."""

    def __init__(self, command, **_):
        self.returncode, self.out, self.pid = 1, command[4], 2**30

    def communicate(self):
        return None, "Traceback\nNoSuchKernel: python3\n"

    def wait(self, seconds):
        raise subprocess.TimeoutExpired("papermill", seconds)


def test_papermill_without_an_output_is_reported(call, page, monkeypatch):
    monkeypatch.setattr(page_command.subprocess, "Popen", Papermill)
    code, _, err = call("page", "tiny")
    assert code == 1 and err == "noisylabels: tiny failed (NoSuchKernel: python3).\n"
    monkeypatch.setattr(page_command, "find_spec", lambda package: None)
    code, _, err = call("page", "tiny")
    assert code == 1 and "papermill is not installed" in err


def test_an_interrupted_page_leaves_nothing(call, page, home, monkeypatch):
    def interrupted(self):
        with open(self.out, "w", encoding="utf-8") as f:
            f.write("half")
        raise KeyboardInterrupt

    sent = []
    monkeypatch.setattr(Papermill, "communicate", interrupted)
    monkeypatch.setattr(page_command.subprocess, "Popen", Papermill)
    monkeypatch.setattr(page_command.os, "killpg", lambda *what: sent.append(what))
    code, _, err = call("page", "tiny")
    assert (code, err) == (130, "noisylabels: stopped.\n")
    assert sent == [(2**30, signal.SIGTERM), (2**30, signal.SIGKILL)]
    assert os.listdir(home / "_build" / "pages") == []


# ------------------------------------------------------------------------------------------ doctor


def test_doctor_where_all_is_well(call):
    code, out, err = call("doctor", "--quick")
    assert (code, err) == (0, "") and out.endswith("all that is required works\n")
    assert f"python      {sys.version.split()[0]}" in out and f"torch {torch.__version__}" in out
    assert "digits: 1,297 + 500 images" in out and "not here: cifar10 (" in out
    assert "0 finished runs, 0 failed, in data/runs" in out and "free" in out
    assert "no run begun" in out and "speed" not in out


def test_doctor_verifies_real_images(call, monkeypatch, data_root):
    monkeypatch.setenv("NOISYLABELS_DATA", str(data_root))
    monkeypatch.setattr(datasets, "NAMES", ("cifar10",))
    _, out, _ = call("doctor", "--quick")
    assert "cifar10: 50,000 + 10,000 images, checksums are the official ones" in out
    if (data_root / "cifar_n").is_dir():
        assert "human-worse: 40.21 % wrong" in out


def test_doctor_names_what_is_broken(call, home, monkeypatch):
    (home / "data" / "datasets" / "cifar-10-batches-bin").mkdir(parents=True)
    version = doctor.importlib.metadata.version

    def absent(name):
        if name in ("scikit-learn", "hnswlib"):
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return "99" if name == "numpy" else version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    monkeypatch.setattr(doctor, "_declared", lambda: {"numpy": ">=2,<3", "scikit-learn": ">=1.6"})
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=5e6))
    code, out, err = call("doctor", "--quick")
    assert code == 1 and "4 things to mend:" in err
    assert (
        "scikit-learn is not installed; `make setup`, or `pip install 'scikit-learn>=1.6'`" in err
    )
    assert (
        "data_batch_1.bin" in err and "cannot be written to" in err and "only 5.0 MB free" in err
    )
    assert "hnswlib: not installed, so neighbours use the exact search" in out
    assert "numpy 99 (outside the tested range >=2,<3)" in out and "works" not in out


def test_doctor_without_torch_stops_early(call, monkeypatch):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec",
                        lambda name, *a: None if name == "torch" else find(name, *a))
    code, out, _ = call("doctor")
    assert code == 1 and "nothing else can be looked at without torch" in out


def test_doctor_downloads(call, home, monkeypatch):
    def offline(name):
        raise ConnectionError(f"{name} could not be downloaded")

    monkeypatch.setattr(datasets, "download", offline)
    code, out, err = call("doctor", "--download", "cifar10", "--quick")
    assert code == 1 and "fetching cifar10 into data/datasets" in out
    assert err == "noisylabels: cifar10 could not be downloaded\n"


def test_torchvision_that_does_not_import_is_only_noted(monkeypatch):
    from noisylabels.data import torchvision_guard

    def fail():
        raise RuntimeError("no nms\nmore")

    monkeypatch.setattr(torchvision_guard, "import_torchvision", fail)
    said = doctor._torchvision_state()
    assert "its import fails (RuntimeError), so CIFAR cannot be downloaded" in said
    assert "no nms" not in said


def test_ranges_of_versions(monkeypatch):
    assert doctor._outside("2.13.0+cpu", ">=2.11,<2.14") == "" and doctor._outside("1", "") == ""
    assert doctor._outside("2.14", ">=2.11,<2.14") == " (outside the tested range >=2.11,<2.14)"
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: [
        "torch<2.14,>=2.11", 'hnswlib<0.9,>=0.8; extra == "knn"', "x[all] (>=1)"])
    assert doctor._declared() | {"python": ""} == {
        "torch": "<2.14,>=2.11", "hnswlib": "<0.9,>=0.8", "x": ">=1", "python": ""}


def test_doctor_tells_what_a_run_costs(call, monkeypatch):
    seen = []

    def timing(network, dataset, batch_size, precision, execution, seconds=1.0):
        seen.append((network, dataset))
        return cost.Timing(network, 1e-3, *cost.SIZES[dataset][3:])

    monkeypatch.setattr(cost, "time_steps", timing)
    record(options=lab.setting("gce").options, val_fraction=0.1)
    monkeypatch.setattr(engine, "hardware", lambda device: "abacus")
    code, out, _ = call("doctor")
    assert code == 0 and seen == [
        ("tiny", "digits"), ("small", "cifar10"), ("resnet8", "cifar10"), ("resnet9", "cifar10")]
    assert "tiny: 1,000 training images a second, batches of 64, on abacus" in out
    table = {line.split()[0]: line for line in out.split("what one run costs")[1].splitlines()[1:]
             if line.strip()}
    s = lab.setting("cross_entropy")
    by_hand = s.options["epochs"] * (1167 + (500 + 1167 + 130) / 3) * 1e-3
    assert wording.duration(by_hand) + " ~" in table["cross_entropy"]
    assert re.match(r"gce +20.0 min ", table["gce"]), "three epochs in 120 s, so thirty in 20 min"
    assert "; paper scaled by counted operations" in out
    assert "laptop and desk: 10,000 images of CIFAR-10" in out


def test_costs_follow_the_counted_operations():
    # stem and stages of the tiny network grow with the number of pixels
    assert cost.operations("tiny", 1, 16) / cost.operations("tiny", 1, 8) == pytest.approx(
        4, rel=0.01
    )
    timing = cost.Timing("tiny", 1e-3, 1, 8)
    assert timing.of("tiny", 1, 8) == pytest.approx(1e-3)
    assert 50 < timing.of("resnet34", 3, 32) / 1e-3 < 50_000
    s = lab.setting("cross_entropy")
    twice = lab.setting("cross_entropy", epochs=2 * s.options["epochs"])
    assert cost.of_setting(twice, timing) == pytest.approx(2 * cost.of_setting(s, timing))


def test_a_timing_takes_at_least_two_steps():
    timing = cost.time_steps("tiny", "digits", 8, "float32", engine.Execution("cpu"), seconds=0.0)
    assert timing.network == "tiny" and 0 < timing.seconds < 1


def test_a_large_network_is_timed_itself_on_a_cpu_in_smaller_batches(monkeypatch):
    """A network of 170 times its operations told little: days for what takes hours."""
    seen = []
    real = engine.Task.batches

    def batches(task, batch_size, *args, **more):
        seen.append((batch_size, len(task)))
        return real(task, batch_size, *args, **more)

    monkeypatch.setattr(engine.Task, "batches", batches)
    monkeypatch.setattr(cost, "operations", lambda *_: 10**9)
    cpu = engine.Execution("cpu")
    assert cost.time_steps("tiny", "digits", 64, "float32", cpu, 0.0).network == "tiny"
    assert seen[0] == (10, 80)
    monkeypatch.setattr(cost, "operations", lambda *_: 10**12)
    cost.time_steps("tiny", "digits", 64, "float32", cpu, 0.0)
    cost.time_steps("tiny", "digits", 2, "float32", cpu, 0.0)
    assert seen[-2:] == [(4, 32), (2, 16)]
    ticks = iter(range(0, 1000, 3))  # each look at the clock three seconds later
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(ticks))
    assert cost.time_steps("tiny", "digits", 4, "float32", cpu, 9.0).seconds == 3 / 4


def test_an_unknown_factor_is_said(monkeypatch, home):
    monkeypatch.delitem(cost.FACTORS, "gce")
    s = lab.setting("gce")
    assert cost.of_setting(s, cost.Timing("tiny", 1.0, 1, 8)) is None
    args = engine.Execution("cpu", compile=True)
    monkeypatch.setattr(cost, "time_steps",  # without compiling: that takes longer than it tells
                        lambda *a: a[4].compile or cost.Timing("tiny", 1.0, 1, 8))
    assert "not known yet" in train.expected(s, args, 0, timed=True)
    monkeypatch.setitem(cost.FACTORS, "gce", 1.0)
    assert "by a timing of a few steps" in train.expected(s, args, 0, timed=True)
