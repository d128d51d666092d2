"""The one place where training meets the truth: per-epoch numbers, checkpoints, resume.

A method sees a `Task`; the recorder alone also knows the true labels and the test set.
At the end of an epoch it evaluates the networks, turns the method's per-sample signals
into numbers (how many labels are right, how well `p_clean` ranks them) and saves a
checkpoint. A killed run is started again from its top: each `epochs` block puts its
networks, optimisers and tensors back in place and goes on at the first epoch that was
not finished.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import mixtures
from . import engine, schema
from .networks import Network
from .runs import StoreError

# epochs of a stage after which everything is measured, and which `mean_last_10` means
LAST = 10
# principal components kept of a sample's features: as many as there are classes
FEATURES = 10

Progress = Callable[[Mapping[str, Any]], None]
Watch = Callable[[int, "Recorder"], None]


class TrainingFailed(RuntimeError):
    """Training broke down (a loss that is not finite); recorded as a failed run."""


@dataclass(frozen=True)
class Truth:
    """What only the recorder knows. Index i of `y_true` and `wrong` is sample i of the
    task.

    Args:
        y_true: int64 (N,); wrong: bool (N,), the given label is not the true one (or
            the image was replaced by one of no class at all).
        x_test, y_test: the clean test set; x_val, y_val: validation images with *noisy*
            labels.
        probe: int64 indices of the training samples whose accuracy is followed (all, or
            a fixed random part where evaluating all would cost too much).
        note: where labels come from that were not drawn; part of the record.
        redrawn: how often a source class had run out of images and another was drawn.
        index: int64 (N,), the samples' numbers in the official train set.
    """

    y_true: Tensor
    wrong: Tensor
    x_test: Tensor
    y_test: Tensor
    x_val: Tensor
    y_val: Tensor
    probe: Tensor
    note: str = ""
    redrawn: int = 0
    index: Tensor | None = None


class Losses:
    """Every sample's loss after every epoch in a byte each, for detection without
    retraining.

    A byte b stands for the loss exp(LOW + b (HIGH - LOW) / 255): from 0.0001 to 20, in
    steps of 4.9 %. `kept` thins the epochs out evenly, counted from the last one, until
    they take `MOST` bytes; `epochs` says which are left.
    """

    LOW, HIGH, MOST = math.log(1e-4), math.log(20.0), 900_000

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, losses: Tensor) -> None:
        """The losses (N,) after one more epoch."""
        place = (losses.clamp_min(1e-30).log() - self.LOW) / (self.HIGH - self.LOW)
        self._rows.append((255 * place).round().clamp(0, 255).to("cpu", torch.uint8))

    @classmethod
    def epochs(cls, count: int, samples: int) -> list[int]:
        """Which of `count` epochs are kept."""
        apart = -(-count * samples // cls.MOST)
        return list(range(count, 0, -apart))[::-1] if count else []

    def kept(self, samples: int) -> np.ndarray:
        """uint8 (epochs kept, N)."""
        return torch.stack([self._rows[e - 1]
                            for e in self.epochs(len(self), samples)]).numpy()

    @classmethod
    def read(cls, kept: np.ndarray) -> np.ndarray:
        """The losses behind the bytes, float32, same shape."""
        return np.exp(cls.LOW + kept.astype(np.float32) * ((cls.HIGH - cls.LOW) / 255))

    def state(self) -> Tensor:
        return torch.stack(self._rows) if self._rows else torch.zeros(
            0, 0, dtype=torch.uint8)

    def put_back(self, state: Tensor, epochs: int) -> None:
        if len(state) != epochs:
            raise ValueError(f"it holds the losses of {len(state)} of {epochs} epochs")
        self._rows = list(state)


class Recorder:
    """Follows one training: `for epoch in log.epochs(n, net, opt): ... log.loss(...)`.

    Args:
        checkpoints: folder for the blocks' checkpoints, or None to keep none.
        progress: called after each epoch with that epoch's row.
        watch: called after each epoch with (epoch, recorder); the recorder's `networks`
            are the ones evaluated. For figures made while training; must not change
            anything.
        losses_at: epochs after which every sample's cross entropy against its given
            label is kept, as signal `loss-<epoch>`. A run that goes on keeps those it
            began with as well.
        features_at: epochs after which every sample's features are kept, as
            `features-<epoch>` (`FEATURES`, N): their principal components.
        history: keep every sample's loss after every epoch, as signal `losses` (see
            `Losses`). The truth's `probe` must be all samples.
        every: test and validation images are looked at after every so many epochs of a
            stage, and after its last ten; in between the record has no number.
        about: with what this process trains (commit, versions, hardware, ...): see
            `parts`.
    """

    def __init__(self, task: engine.Task, truth: Truth, checkpoints: Path | None = None,
                 progress: Progress | None = None, watch: Watch | None = None,
                 losses_at: tuple[int, ...] = (), features_at: tuple[int, ...] = (),
                 history: bool = False, every: int = 1,
                 about: Mapping[str, Any] | None = None) -> None:
        self.task, self.truth = task, truth
        self.checkpoints, self.progress, self.watch = checkpoints, progress, watch
        self.losses_at, self.about = losses_at, dict(about or {})
        self.features_at, self.every = features_at, every
        self.history = Losses() if history else None
        self.rows: list[dict[str, Any]] = []
        self.networks: list[Network] = []
        self.resumed_at = 0
        self._earlier: list[dict[str, Any]] = []
        self._block = 0
        self._notes: dict[str, Tensor | float] = {}
        self._handed: dict[str, Tensor] = {}
        self._loss_sum: Tensor = torch.zeros((), device=task.device)
        self._steps = 0
        self._writer: Thread | None = None
        self._unwritten: StoreError | None = None

    # -------------------------------------------------------------- what a method calls

    def epochs(self, count: int, *state: Any,
               predict: Network | list[Network] | None = None,
               stage: str = "train") -> Iterator[int]:
        """Yield the 1-based epochs of one stage; evaluate, record and checkpoint after
        each.

        Args:
            state: networks, optimisers, tensors, and anything with `state_dict`: all
                that must be put back when a killed run resumes. What is computed afresh
                from these need not be.
            predict: the network, or networks whose logits are summed, that count as the
                method's answer (default: the first network of `state`).
            stage: name of the stage, a column of the record.
        """
        nets = predict if isinstance(
            predict, list) else [predict] if predict is not None else [
                next(x for x in state if isinstance(x, Network))
            ]
        block, self._block = self._block, self._block + 1
        done = self._restore(block, state, count, stage)
        for epoch in range(done + 1, count + 1):
            self._loss_sum = torch.zeros((), device=self.task.device)
            self._steps, self._notes = 0, {}
            self._synchronise()
            begun = time.perf_counter()
            yield epoch
            self._synchronise()
            trained = time.perf_counter()
            self.networks = nets
            full = epoch % self.every == 0 or epoch > count - LAST
            row = {
                "stage": stage, "epoch": len(self.rows) + 1,
                **self._measure(nets, full)
            }
            row["seconds"] = round(trained - begun, 4)
            row["seconds_evaluating"] = round(time.perf_counter() - trained, 4)
            self.rows.append(row)
            if row["epoch"] in self.losses_at:
                self.signal(f"loss-{row['epoch']}", engine.losses(nets[0], self.task))
            if row["epoch"] in self.features_at:
                self._handed[f"features-{row['epoch']}"] = self._features(nets[0])
            if not self._steps:
                raise TrainingFailed(
                    f"epoch {row['epoch']} ({stage}) had no step: there were too "
                    "few samples for a batch.")
            if not math.isfinite(row["loss"]):
                raise TrainingFailed(
                    f"the loss became {row['loss']} in epoch {row['epoch']} "
                    f"({stage}).")
            if not self._finite:
                raise TrainingFailed(
                    f"the network's outputs are no numbers after epoch "
                    f"{row['epoch']} ({stage}).")
            self._save(block, epoch, count, state)
            if self.progress is not None:
                self.progress({**row, "stage_epoch": epoch, "stage_epochs": count})
            if self.watch is not None:
                self.watch(int(row["epoch"]), self)

    def loss(self, value: Tensor) -> None:
        """Count one step's loss (a detached scalar); the epoch's mean is recorded."""
        self._loss_sum += value
        self._steps += 1

    def note(self, **values: Tensor | float) -> None:
        """Record scalars of this epoch under their names; tensors are read once, at its
        end."""
        self._notes.update(values)

    def p_clean(self, values: Tensor, suffix: str = "") -> None:
        """Hand over p(label is right) (N,); recorded: its AUC and its means by the
        truth."""
        right = ~self.truth.wrong
        mean_right, mean_wrong = ((values * g).sum() / g.sum() for g in (right, ~right))
        self.note(**{f"auc{suffix}": mixtures.auc(values, right),
                     f"p_right{suffix}": mean_right, f"p_wrong{suffix}": mean_wrong})
        self.signal(f"p_clean{suffix}", values)

    def targets(self, values: Tensor, suffix: str = "") -> None:
        """Hand over the current (soft) labels (N, C); recorded: how many have a right
        argmax, among the samples for which some label is right (NaN without any)."""
        own = ~self._foreign
        right = (values.argmax(1) == self.truth.y_true) & own
        self.note(**{f"label_accuracy{suffix}": right.sum() / own.sum()})

    def signal(self, name: str, values: Tensor) -> None:
        """Keep a per-sample array (N,) under `name`; the last one handed over is
        recorded.

        In float32: in float16 every p above 0.9998 is 1, and the most certain have no
        order.
        """
        self._handed[name] = values.detach().to(torch.float32, copy=True)

    # ------------------------------------------------------------------------ measuring

    @property
    def _foreign(self) -> Tensor:
        """bool (N,): images of no class, whose kept label is wrong though it is
        `y_true`."""
        return self.truth.wrong & (self.task.y_given == self.truth.y_true)

    def signals(self) -> dict[str, np.ndarray]:
        """The per-sample arrays handed over last, for the record (`Run.signals` says
        which); empty when there are none."""
        kept = {k: v.cpu().numpy() for k, v in self._handed.items()}
        if self.history is not None and len(self.history):
            kept["losses"] = self.history.kept(len(self.task))
        if kept:
            kept["wrong"] = self.truth.wrong.cpu().numpy()
            kept["given"] = self.task.y_given.cpu().numpy().astype(np.int16)
            if self.truth.index is not None:
                kept["index"] = self.truth.index.cpu().numpy().astype(np.int32)
        return kept

    @property
    def lacking(self) -> list[str]:
        """Losses that were asked for after their epoch had gone by: the run had begun
        without."""
        return [f"loss-{k}" for k in self.losses_at
                if k <= len(self.rows) and f"loss-{k}" not in self._handed]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Which epochs were trained with what: one entry, or more where a run went on
        elsewhere.

        An entry is `about` of the process that trained `epochs`, the first and the last
        one; where a checkpoint of before did not say, `epochs` alone.
        """
        if len(self.rows) <= self.resumed_at:
            return list(self._earlier)
        mine = {**self.about, "epochs": [self.resumed_at + 1, len(self.rows)]}
        if self._earlier and _made_alike(self._earlier[-1], mine):
            last = self._earlier[-1]
            return [
                *self._earlier[:-1],
                {**mine, "epochs": [last["epochs"][0],
                                    len(self.rows)]}
            ]
        return [*self._earlier, mine]

    def logits(self, images: Tensor, nets: list[Network] | None = None) -> Tensor:
        """The method's answer (N, C) on uint8 images: its networks' logits, summed."""
        each = [
            engine.outputs(net, self.task, images)[0] for net in nets or self.networks
        ]
        return torch.stack(each).sum(0)

    def _features(self, net: Network) -> Tensor:
        """uint8 (FEATURES, N): the leading principal components, in one common unit."""
        _, found = engine.outputs(net, self.task, features=True)
        assert found is not None
        found = found.double() - found.double().mean(0)
        axes = torch.linalg.eigh(found.T @ found).eigenvectors[:, -FEATURES:].flip(1)
        there = (found @ axes).T
        return (there * (127 / there.abs().max().clamp_min(1e-12)) + 128).round().to(
            torch.uint8)

    def _measure(self, nets: list[Network], full: bool = True) -> dict[str, Any]:
        t = self.truth

        def share(hit: Tensor, among: Tensor | None = None) -> Tensor:
            hit = hit.float()
            return hit.mean() if among is None else (hit * among).sum() / among.sum()

        said = self.logits(self.task.images[t.probe], nets)
        guess = said.argmax(1)
        if self.history is not None:
            self.history.add(torch.nn.functional.cross_entropy(said, self.task.y_given,
                                                               reduction="none"))
        wrong = t.wrong[t.probe].float()
        given, true = self.task.y_given[t.probe], t.y_true[t.probe]
        numbers: dict[str, Tensor | float] = {
            "loss": self._loss_sum / self._steps if self._steps else math.nan,
            "test": share(self.logits(t.x_test, nets).argmax(1) == t.y_test) if full
            else math.nan,
            "val": share(self.logits(t.x_val, nets).argmax(1) == t.y_val)
            if full and len(t.x_val) else math.nan,
            "clean_fit": share(guess == given, 1 - wrong),
            "wrong_fit": share(guess == given, wrong),
            "wrong_corrected": share(guess == true, wrong * ~self._foreign[t.probe]),
            **self._notes,
        }
        there = {k: v.float() for k, v in numbers.items() if isinstance(v, Tensor)}
        there["finite"] = said.isfinite().all().float()
        # the epoch's one wait
        read = dict(zip(there, torch.stack(list(there.values())).tolist(),
                        strict=True))
        self._finite = bool(read.pop("finite"))
        return {k: float(f"{read.get(k, v):.7g}") for k, v in numbers.items()}

    def _synchronise(self) -> None:
        if self.task.device.type == "cuda":
            torch.cuda.synchronize()

    # ------------------------------------------------------------ checkpoint and resume

    def _file(self, block: int) -> Path | None:
        folder = self.checkpoints
        return None if folder is None else folder / f"block-{block}.pt"

    def _save(self, block: int, epoch: int, count: int, state: tuple[Any, ...]) -> None:
        file = self._file(block)
        if file is None:
            return
        content = {
            "epoch": epoch, "count": count, "rows": list(self.rows),
            "state": [_to_host(_state_of(x)) for x in state],
            "signals": _to_host(self._handed),
            "generators": {k: g.get_state() for k, g in self.task.generators.items()},
            "parts": self.parts, "losses_at": list(self.losses_at),
            **({} if self.history is None else {"losses": self.history.state()}),
        }
        self.finish()  # at most one write under way
        if self.task.device.type == "cuda":
            self._writer = Thread(target=self._write, args=(content, file))
            self._writer.start()
        else:
            _write(content, file)

    def _write(self, content: dict[str, Any], file: Path) -> None:
        try:
            _write(content, file)
        except StoreError as error:
            self._unwritten = error

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any; raise if it could not
        be."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._unwritten is not None:
            error, self._unwritten = self._unwritten, None
            raise error

    def _restore(self, block: int, state: tuple[Any, ...], count: int,
                 stage: str) -> int:
        file = self._file(block)
        if file is None or not file.exists():
            return 0
        saved = read_checkpoint(file)
        try:
            self._agrees(saved, count, stage)
        except ValueError as error:
            raise _not_to_be_used(file, str(error)) from error
        try:
            for mine, theirs in zip(state, saved["state"], strict=True):
                _put_back(mine, theirs)
            for name, drawn in saved["generators"].items():
                self.task.rng(name).set_state(drawn)
            handed = {k: v.to(self.task.device) for k, v in saved["signals"].items()}
            if self.history is not None:
                self.history.put_back(saved["losses"], len(saved["rows"]))
        # whatever a file that somebody made by hand may hold
        except Exception as error:
            raise _not_to_be_used(
                file, "its networks, optimisers or random draws are not those "
                "of this run") from error
        self.rows, self._handed = list(saved["rows"]), handed
        self.resumed_at = len(self.rows)
        self._earlier = [dict(p) for p in saved.get("parts", ())]
        if not self._earlier:  # a checkpoint of before
            self._earlier = [{"epochs": [1, len(self.rows)]}]
        self.losses_at = tuple(sorted({*self.losses_at, *saved.get("losses_at", ())}))
        return int(saved["epoch"])

    def _agrees(self, saved: Mapping[str, Any], count: int, stage: str) -> None:
        """Raise ValueError unless the checkpoint goes on where this run's earlier
        stages end."""
        rows, epoch = saved["rows"], saved["epoch"]
        before, here = rows[:len(rows) - epoch], rows[len(rows) - epoch:]
        if saved["count"] != count or here[0]["stage"] != stage:
            raise ValueError(
                f"it is of {saved['count']} epochs of {here[0]['stage']!r}, not of "
                f"{count} of {stage!r}")
        if [r["stage"] for r in before] != [r["stage"] for r in self.rows]:
            raise ValueError(
                f"{len(before)} epochs of earlier stages stand in it, there are "
                f"{len(self.rows)}")
        if any(not isinstance(v, Tensor) or v.shape[-1:] != (len(self.task),)
               for v in saved["signals"].values()):
            raise ValueError("its signals are of another number of samples")
        if self.history is not None:
            held, due = saved.get("losses"), (len(rows), len(self.task))
            if not isinstance(held, Tensor) or (held.dtype, held.shape) != (torch.uint8,
                                                                            due):
                raise ValueError(
                    "it lacks what this run keeps: the losses of each of its "
                    f"{due[1]:,} samples after each of {due[0]} epochs")


def _made_alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two parts differ in nothing but their epochs and dates."""
    ignored = ("epochs", "date")
    return {k: v for k, v in a.items() if k not in ignored} == {
        k: v for k, v in b.items() if k not in ignored}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A block's checkpoint, its form checked. A StoreError says what is wrong, in our
    own words: torch's advice for a file that it cannot read is to run code out of
    it."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StoreError(
            f"the checkpoint {file} cannot be read ({error.strerror or error}); make "
            f"it readable and start the run again. Nothing says that it is damaged."
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise _not_to_be_used(file,
                              "it is cut, or no checkpoint of this program") from error
    try:
        return schema.check_checkpoint(held)
    except ValueError as error:
        raise _not_to_be_used(file, str(error)) from error
    except KeyError as error:
        raise _not_to_be_used(file, f"it has no {error}") from error


def newest(folder: Path) -> Path | None:
    """The checkpoint of the last block in a folder, None without any."""
    return max(folder.glob("block-*.pt"), default=None,
               key=lambda f: int(f.stem.split("-")[1]))


def lacks_losses(folder: Path) -> bool:
    """Whether what was begun there, past its second epoch, keeps no losses."""
    file = newest(folder)
    held = read_checkpoint(file) if file else None
    return held is not None and len(held["rows"]) >= 2 and (
        "loss-2" not in held["signals"])


def _not_to_be_used(file: Path, why: str) -> StoreError:
    return StoreError(
        f"the checkpoint {file} cannot be read ({why}); delete its folder to start "
        f"this run anew.")


def epochs_in(folder: Path, of_all: int | None = None) -> int:
    """Finished epochs in a folder of checkpoints, 0 without any.

    Every block is checked, and that each goes on where the one before ends, within
    `of_all` epochs; a StoreError says where it does not.
    """
    files = sorted(folder.glob("block-*.pt"), key=lambda f: int(f.stem.split("-")[1]))
    rows: list[Any] = []
    for number, file in enumerate(files):
        held = read_checkpoint(file)
        before = held["rows"][:len(held["rows"]) - held["epoch"]]
        if file.name != f"block-{number}.pt" or [r["stage"] for r in before] != rows:
            raise _not_to_be_used(file, "it does not go on where the block before ends")
        if number < len(files) - 1 and held["epoch"] != held["count"]:
            raise _not_to_be_used(file,
                                  "a later block is there, and this one has not ended")
        rows = [r["stage"] for r in held["rows"]]
        if of_all is not None and len(rows) > of_all:
            raise _not_to_be_used(file,
                                  f"it has {len(rows)} epochs, the run has {of_all}")
    return len(rows)


def _state_of(x: Any) -> Any:
    return x if isinstance(x, Tensor) else x.state_dict()


def _put_back(mine: Any, theirs: Any) -> None:
    """Load a saved state in place. A learning rate that lives on the device stays that
    tensor."""
    if isinstance(mine, Tensor):
        mine.copy_(theirs)
        return
    rates = [g["lr"] for g in getattr(mine, "param_groups", ())]
    mine.load_state_dict(theirs)
    for group, rate in zip(getattr(mine, "param_groups", ()), rates, strict=True):
        if isinstance(rate, Tensor):
            rate.fill_(float(group["lr"]))
            group["lr"] = rate
        elif isinstance(group["lr"], Tensor):
            group["lr"] = float(group["lr"])


def _to_host(x: Any) -> Any:
    """A copy on the host that later steps cannot change."""
    if isinstance(x, Tensor):
        return x.detach().to("cpu", copy=True)
    if isinstance(x, Mapping):
        return {k: _to_host(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_to_host(v) for v in x]
    return x


def _write(content: dict[str, Any], file: Path) -> None:
    temporary = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # a link that lies there is not written through
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as f:
            torch.save(content, f)
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        why = (error.strerror
               if isinstance(error, OSError) else None) or "it was cut off"
        raise StoreError(
            f"could not write the checkpoint {file} ({why}); free the disk or make "
            f"the folder writable and start the run again.") from error
