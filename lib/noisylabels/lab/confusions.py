"""Count what a network takes for what: the matrices behind `confusion` and
`ood-confusion` noise.

`rebuild` makes the files under `data/noise` that those noises read. It trains a
network, so it stands after `lab`; reading the files does not (`noise.foreign`).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from .. import lab
from ..data import datasets
from ..noise import foreign


def rebuild(dataset: str, folder: Path | None = None, *, budget: str = "laptop",
            seed: int = 0, **options: Any) -> list[Path]:
    """Train cross entropy on clean labels, count what it takes for what, write both
    files.

    Test images of the dataset (held out), then all train images of the source, also
    those of classes that are left out. `options` as in `lab.setting`. Minutes on a CPU;
    existing files are replaced. At the laptop budget the network is weak, hence its
    confusions many.
    """
    setting = lab.setting("cross_entropy", dataset, "none", 0.0, budget, seed=seed,
                          **options)
    run, recorder = lab.watch(setting)
    truth, other = recorder.truth, datasets.load(foreign.SOURCES[dataset])
    made = (f"cross_entropy on clean {dataset}, {budget} budget, seed {seed}, "
            f"{run.info['samples']} training images, test accuracy {run.last():.4f}, "
            f"key {setting.key}, commit {run.info['commit']}")
    out = []
    for of_source, x, y in ((False, truth.x_test, truth.y_test),
                            (True, other.x_train, other.y_train)):
        guess = torch.cat([recorder.logits(part.to(truth.x_test.device)).argmax(1).cpu()
                           for part in x.split(10_000)])
        rows = foreign.names(foreign.SOURCES[dataset] if of_source else dataset)
        columns = foreign.names(dataset)
        counts = torch.bincount(y.cpu() * len(columns) + guess,
                                minlength=len(rows) * len(columns)).view(len(rows), -1)
        path = foreign.file(dataset, of_source, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write(f"# rows: true class, columns: predicted class, counts; {made}\n")
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["true", *columns])
            writer.writerows([name, *row]
                             for name, row in zip(rows, counts.tolist(), strict=True))
        out.append(path)
    return out
