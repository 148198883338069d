"""What the tests of losses share: data sets' specs, random batches, and NumPy's view of what counts where."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax

from segtasks.spec import ClassSpec, DatasetSpec

IGNORE = 255


def spec_of(*names: str, classes: int = 4) -> DatasetSpec:
    names = names or tuple(f"c{index}" for index in range(classes))
    return DatasetSpec(
        name="made", classes=tuple(ClassSpec(name=name, color=(index, 0, 0)) for index, name in enumerate(names)), ignore_index=IGNORE
    )


def random_case(classes: int = 4, images: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 logits and a target with ignored pixels, the last class absent everywhere and class 1 absent from the first image."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, 6, 7, generator=random, dtype=torch.float64) * 2
    target = torch.randint(0, classes - 1, (images, 6, 7), generator=random)
    target[0][target[0] == 1] = 0
    target[torch.rand(target.shape, generator=random) < 0.25] = IGNORE
    return logits, target


def sure(target: torch.Tensor, classes: int, logit: float = 60.0) -> torch.Tensor:
    """float64 logits of a prediction of `target`, as good as certain."""
    hot = torch.nn.functional.one_hot(target.clamp(max=classes), classes + 1)[..., :classes]
    return hot.permute(0, 3, 1, 2).double() * logit


def regions(logits, target, *, per_image=False):
    """For each region (image, or the batch) the labelled pixels' probabilities (P, C) and classes (P,)."""
    p = np.moveaxis(softmax(logits.detach().numpy(), axis=1), 1, -1)
    target = target.numpy()
    groups = [[index] for index in range(len(p))] if per_image else [list(range(len(p)))]
    return [(p[group][target[group] != IGNORE], target[group][target[group] != IGNORE]) for group in groups]


def mean_over_classes(cost, logits, target, *, per_image=False, classes="present", weights=None, left_out=()):
    """The weighted mean of `cost(p, g)` over classes, p (P,) the probabilities and g (P,) the truth of one, then over regions."""
    means = []
    for p, t in regions(logits, target, per_image=per_image):
        costs, norm = 0.0, 0.0
        for index in range(p.shape[1]):
            g = (t == index).astype(float)
            if index in left_out or len(t) == 0 or (classes == "present" and not g.any()):
                continue
            weight = 1.0 if weights is None else weights[index]
            costs, norm = costs + weight * cost(p[:, index], g), norm + weight
        if norm:
            means.append(costs / norm)
    return float(np.mean(means)) if means else 0.0
