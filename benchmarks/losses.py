"""Seconds and memory of every loss against plain cross-entropy: `python benchmarks/losses.py [--shape 8 19 512 1024] [--rounds 5]`.

Forward and backward in float32 on CPU, with each loss's default options (`SMALL` of its module where it has no defaults). The target is
made of regions with one pixel in twenty ignored, and the logits are right on most pixels, as in the middle of training: losses that sort,
choose pixels or measure distances see what they see there. Each loss has a process of its own, in which every round times cross-entropy and
the loss one after the other, so that a busy machine slows both; the ratio is the median over rounds. Memory is the peak above the inputs,
of one pass. A loss for a fixed number of classes is compared at that number.
Wanted: no more than 10 times cross-entropy, but for Hausdorff and boundary with distance maps computed on the fly.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segtasks import plugins
from segtasks.losses._base import Loss
from segtasks.testing._base import made_spec, small_config

BAR = 10.0
PLAIN = "cross_entropy"
Shape = tuple[int, int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=plugins.names("losses"), help="losses, also by dotted path; none: all")
    parser.add_argument("--shape", type=int, nargs=4, default=(8, 19, 512, 1024), metavar=("N", "C", "H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.names[0], tuple(options.shape), options.rounds, options.threads)))
        return
    print(f"{'x'.join(map(str, options.shape))}, {options.rounds} rounds, {options.threads} threads, torch {torch.__version__}\n")
    print("| loss | classes | seconds | ratio | lowest to highest | peak MiB | ratio of peaks |\n|---|---:|---:|---:|---:|---:|---:|")
    over = []
    for name in sorted(options.names, key=lambda name: name != PLAIN):
        found = in_a_process(name, options)
        if isinstance(found, str):
            print(f"| {name} | | {found} | | | | |", flush=True)
            continue
        times = found["seconds"]
        ratios = [theirs / plain for plain, theirs in zip(found["plain"], times, strict=True)]
        ratio, memory = statistics.median(ratios), found["peak_mib"] / max(found["plain_peak_mib"], 1)
        over += [name] if ratio > BAR else []
        between = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle = statistics.median(times)
        print(
            f"| {name} | {found['classes']} | {middle:.3g} | {ratio:.2f} | {between} | {found['peak_mib']:.0f} | {memory:.1f} |", flush=True
        )
    print(f"\nOver {BAR:g} times cross-entropy: {', '.join(over) or 'none'}")


def in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """What `measure` returns, or how its process ended."""
    shape = ["--shape", *map(str, options.shape)]
    rest = ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    command = [sys.executable, __file__, name, "--child", *shape, *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed ({done.returncode}): {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, shape: Shape, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    module = plugins.load("losses", name)
    images, classes, height, width = shape
    classes = getattr(module, "CLASSES", classes)
    logits_NCHW, target_NHW = batch((images, classes, height, width))
    loss, plain = built(module, target_NHW, classes), built(plugins.load("losses", PLAIN), target_NHW, classes)
    passes = {"plain": lambda: step(plain, logits_NCHW, target_NHW), "theirs": lambda: step(loss, logits_NCHW, target_NHW)}
    plain_peak = peak_mib(passes["plain"], logits_NCHW)
    peak = peak_mib(passes["theirs"], logits_NCHW)
    times = [(seconds(passes["plain"]), seconds(passes["theirs"])) for _ in range(rounds)]
    return {
        "classes": classes,
        "plain": [plain for plain, _ in times],
        "seconds": [theirs for _, theirs in times],
        "plain_peak_mib": plain_peak,
        "peak_mib": peak,
    }


def built(module: ModuleType, target_NHW: Tensor, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    spec = made_spec(classes)
    pixels = torch.bincount(target_NHW[target_NHW != spec.ignore_index], minlength=classes).tolist()
    loss: Callable[[Tensor, Tensor], Tensor] = module.build(small_config(module, None), spec, pixels)
    if isinstance(loss, Loss):
        loss.set_progress(0.5)
    return loss


def batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """Regions some 32 pixels wide, each of one class; logits that are highest there on most pixels."""
    torch.manual_seed(0)
    images, classes, height, width = shape
    coarse = torch.randn(images, classes, max(height // 32, 2), max(width // 32, 2))
    target_NHW = torch.stack([F.interpolate(each[None], (height, width), mode="bicubic")[0].argmax(0) for each in coarse])
    logits_NCHW = torch.randn(shape)
    logits_NCHW.scatter_add_(1, target_NHW.unsqueeze(1), torch.full((images, 1, height, width), 3.0))
    target_NHW[torch.rand(target_NHW.shape) < 0.05] = made_spec(classes).ignore_index
    return logits_NCHW.requires_grad_(), target_NHW


def step(loss: Callable[[Tensor, Tensor], Tensor], logits_NCHW: Tensor, target_NHW: Tensor) -> None:
    logits_NCHW.grad = None
    loss(logits_NCHW, target_NHW).backward()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib(work: Callable[[], None], logits_NCHW: Tensor) -> float:
    """Peak resident memory of the second of two passes, gradient included, above what was resident before; nan outside Linux."""
    work()
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return float("nan")
    logits_NCHW.grad = None
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")  # the high-water mark starts again
    resident = kib(status, "VmRSS")
    work()
    return (kib(status, "VmHWM") - resident) / 1024


def kib(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
