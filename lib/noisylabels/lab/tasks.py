"""From a setting to the task that a method sees, and the truth that stays with the
recorder."""

from __future__ import annotations

import torch

from .. import noise
from ..data import datasets
from ..kernels import views
from ..training import engine
from ..training.recorder import Truth
from ..training.runs import Setting
from .recipes import Plan, check

PROBE = 2_500  # training samples whose accuracy is followed, at most


def prepare(s: Setting,
            execution: engine.Execution | None = None) -> tuple[engine.Task, Truth]:
    """The task a method sees and the truth that stays with the recorder, on the
    device."""
    return made(check(s), execution)


def made(plan: Plan,
         execution: engine.Execution | None = None) -> tuple[engine.Task, Truth]:
    """The same of a setting that was checked."""
    s, recipe = plan.setting, plan.recipe
    execution = (execution or engine.Execution()).resolve()
    data = datasets.load(s.dataset)
    chosen, y_all = torch.arange(len(data.y_train)), data.y_train
    if s.max_samples is not None and s.max_samples < len(data.y_train):
        data, chosen = datasets.subset(data, s.max_samples, s.split_seed)
    split = datasets.split(data.y_train, data.num_classes,
                           trusted_per_class=s.trusted_per_class,
                           val_fraction=s.val_fraction, seed=s.split_seed)
    # all but the trusted samples
    noisy = torch.cat([split.train, split.val]).sort().values
    samples = noise.Samples(data, noisy, y_all, chosen[noisy])
    labels = plan.noise.make(samples, s.rate, s.noise_seed, execution)
    images = samples.images if labels.images is None else labels.images
    in_train = torch.isin(noisy, split.train)
    device = torch.device(execution.device)
    weak: views.View = views.Weak(pad=data.pad, flip=data.flip)
    # as in FixMatch, then cutout of half the side
    strong = views.Chain((weak, views.RandAugment.fixmatch(),
                          views.Cutout.fixmatch(size=data.image_size // 2)))
    if recipe.augment == "none":
        weak = views.Identity()
    task = engine.Task(
        images=images[in_train].to(device),
        y_given=labels.y_given[in_train].to(device), num_classes=data.num_classes,
        mean=data.mean, std=data.std, weak=weak, strong=strong,
        seed=s.init_seed, execution=execution,
        precision=recipe.precision,
        oracle=(labels.wrong[in_train].to(device)
                if getattr(recipe, "oracle", False) else None),
        transition=(labels.transition.float().to(device)
                    if getattr(recipe, "transition", "") == "true" else None),
        trusted=(data.x_train[split.trusted].to(device),
                 data.y_train[split.trusted].to(device))
        if len(split.trusted) else None)
    probe = torch.arange(len(split.train))
    if len(probe) > PROBE and not plan.budget.follows_all:
        draw = torch.Generator().manual_seed(s.split_seed)
        probe = torch.randperm(len(probe), generator=draw)[:PROBE].sort().values
    truth = Truth(
        y_true=labels.y_true[in_train].to(device),
        wrong=labels.wrong[in_train].to(device),
        x_test=data.x_test.to(device), y_test=data.y_test.to(device),
        x_val=images[~in_train].to(device), y_val=labels.y_given[~in_train].to(device),
        probe=probe.to(device), note=labels.note, redrawn=labels.redrawn,
        index=chosen[noisy][in_train].to(device))
    return task, truth
