"""A loss plug-in for tests: not a number as soon as a batch holds a pixel of class 2 and nothing else."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig


class Config(BaseConfig):
    """Nothing to set."""


def build(config, spec, class_pixels):
    def loss(logits_NCHW, target_NHW):
        value = F.cross_entropy(logits_NCHW, target_NHW, ignore_index=spec.ignore_index)
        poisoned = any(bool((mask == 2).all()) for mask in target_NHW)
        return value * torch.nan if poisoned else value

    return loss
