"""What the hardware can do at best: copying memory and multiplying matrices. And what
it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import torch

from .. import lab
from ..training import engine, runs
from .timing import Bench, Entry

PACKAGES = ("torch", "torchvision", "triton", "numpy", "scikit-learn", "pillow")


def copy(bench: Bench) -> Callable[[], float]:
    """GB/s of a copy within the device's memory, bytes read and bytes written both
    counted."""
    n = bench.scaled(2**28 if bench.cuda else 2**24)
    draws = torch.Generator(bench.device).manual_seed(0)
    a = torch.rand(n, device=bench.device, generator=draws)
    b = torch.empty_like(a)
    seconds = bench.repeated(lambda: b.copy_(a))
    return lambda: 2 * a.numel() * a.element_size() / seconds() / 1e9


def matmul(bench: Bench) -> Callable[[], float]:
    """TFLOP/s of a square matrix product of random numbers, in the loops' precision."""
    n = bench.scaled(8192 if bench.cuda else 1024, least=64)
    dtype = torch.bfloat16 if bench.precision == "bfloat16" else torch.float32
    draws = torch.Generator(bench.device).manual_seed(0)
    a, b = torch.randn(2, n, n, device=bench.device, generator=draws).to(dtype)
    out = torch.empty_like(a)
    seconds = bench.repeated(lambda: torch.mm(a, b, out=out))
    return lambda: 2 * n**3 / seconds() / 1e12


ENTRIES = (
    Entry("copy", "copy within the memory, bytes read and written", "GB/s", copy),
    Entry("matmul", "square matrix product, random numbers", "TFLOP/s", matmul),
)


def environment(bench: Bench) -> dict[str, Any]:
    """What a reader must know to judge the numbers."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {
        "hardware": engine.hardware(bench.device), "device": bench.device.type,
        "instructions": engine.instructions(), "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(), "versions": versions,
        "commit": lab.commit(), "date": runs.now(), "clock": bench.clock,
        "network": bench.network, "batch_size": bench.batch_size,
        "precision": bench.precision, "steps": bench.steps, "warm_up": bench.warm_up,
        "rounds": bench.rounds,
    }
    if hasattr(os, "getloadavg"):
        # programs that wanted the CPU at the start
        facts["load"] = round(os.getloadavg()[0], 2)
        if facts["load"] > 1:
            facts[
                "remark"] = "other programs were running: trust the ratios more than the times"
    if bench.cuda:
        properties = torch.cuda.get_device_properties(bench.device)
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
                  "multiprocessors": properties.multi_processor_count}
    return facts
