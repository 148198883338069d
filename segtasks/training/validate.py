"""Score a model on a split: each rank takes its share, and the merged counts are exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segtasks import plugins
from segtasks.config import Plugin
from segtasks.training.data import Loader, Samples, same_size_batches
from segtasks.training.group import gather
from segtasks.training.order import share
from segtasks.transforms.normalise import Normalise


def validate(
    model: nn.Module,
    samples: Samples,
    normalise: Normalise,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    threads: int = 1,
    prefetch: int = 2,
) -> dict[str, Any]:
    """The confusion metric's result over all images of `samples`, at their stored size, the same on every rank.

    `model` gives logits NCHW at its input's size; it is put into `eval()` and left there.
    """
    metric_plugin = Plugin(name="confusion")
    module = plugins.load("metrics", metric_plugin.name)
    metric = module.build(plugins.configure("metrics", metric_plugin), samples.spec)
    start, stop = share(len(samples), world, rank)
    plan = same_size_batches(samples.index, start, stop, batch_size)
    model.eval()
    with Loader(samples, plan, None, threads=threads, prefetch=prefetch) as loader, torch.inference_mode():
        for batch in loader:
            logits_NCHW = model(normalise(torch.from_numpy(batch.images_NHWC)))
            metric.update(logits_NCHW.argmax(dim=1).to(torch.uint16).cpu().numpy(), batch.masks_NHW)
    merged, *others = gather(metric, world)
    for other in others:
        merged.merge(other)
    result: dict[str, Any] = merged.result()
    return result
