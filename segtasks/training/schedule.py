"""The learning rate as a function of the step: nothing to save, and a resumed run cannot drift from an undisturbed one."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["one_cycle", "poly", "cosine", "constant"]


def learning_rate(step: int, steps: int, *, schedule: Schedule, lr: float, warmup: float) -> float:
    """The rate of optimiser step `step` of 0 .. steps - 1; `warmup` is the share of steps in which it rises to `lr`.

    one_cycle (Smith and Topin, arXiv 1708.07120, in cosine form): from lr/25 up to lr and down to lr/250000, as torch's
    OneCycleLR. The others rise linearly from lr/steps_of_warmup, then fall as poly, (1 - t)^0.9 (DeepLab), or as half a
    cosine (Loshchilov and Hutter, arXiv 1608.03983), or stay.
    """
    if schedule == "one_cycle":
        peak = max(warmup * steps - 1, 0.0)
        if step <= peak and peak > 0:
            return _cosine(lr / 25, lr, step / peak)
        return _cosine(lr, lr / 250_000, (step - peak) / max(steps - 1 - peak, 1))
    rising = round(warmup * steps)
    if step < rising:
        return lr * (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    if schedule == "poly":
        return float(lr * (1 - done) ** 0.9)
    return _cosine(lr, 0.0, done) if schedule == "cosine" else lr


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
