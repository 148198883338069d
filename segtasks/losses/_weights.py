"""Class weights from the training data's pixel counts, or given by name: the same options in every loss that takes them.

With p = a class's share of all labelled pixels and m = the number of classes that occur:
`inverse` 1 / (m p), scikit-learn's "balanced"; `median` median(p) / p, over the classes that occur (Eigen and Fergus, ICCV 2015, who
take a class's share only of the images it occurs in: we have one count a class); `log` 1 / ln(c + p) (ENet, Paszke et al., 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, InputError, did_you_mean
from segtasks.spec import DatasetSpec


class ClassWeights(BaseConfig):
    """The options of a loss whose classes may weigh differently."""

    weights: Literal["none", "inverse", "median", "log", "fixed"] = Field(
        default="none", description="class weights from the data's pixel counts: inverse, median or log frequency; fixed: as in `fixed`"
    )
    fixed: dict[str, float] = Field(default_factory=dict, description="class name -> weight, for `weights: fixed`; others have 1")
    log_offset: float = Field(default=1.02, gt=1, description="c in 1 / ln(c + p); ENet's 1.02 bounds weights to 1.4..50.5")
    absent: float = Field(default=1.0, ge=0, description="weight of a class without a pixel in the training data")

    @model_validator(mode="after")
    def _fixed_only_when_asked(self) -> Self:
        if (self.weights == "fixed") != bool(self.fixed):
            raise ValueError("`fixed` holds the weights by class name exactly when `weights` is 'fixed'")
        for name, weight in self.fixed.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} is {weight}; needed: a number >= 0")
        return self


def class_weights(config: ClassWeights, spec: DatasetSpec, class_pixels: Sequence[int]) -> list[float] | None:
    """One weight a class, or None for `weights: none`. `class_pixels`: labelled pixels of each class in the training data.

    Raises `InputError` when no pixel is labelled, `ConfigError` when a fixed weight names no class.
    """
    if config.weights == "none":
        return None
    if config.weights == "fixed":
        for name in config.fixed:
            if name not in spec.names:
                raise ConfigError(f"loss.options.fixed: no class is called {name!r}.{did_you_mean(name, spec.names)}")
        return [config.fixed.get(name, 1.0) for name in spec.names]
    pixels = np.asarray(class_pixels, dtype=np.float64)
    if pixels.shape != (spec.num_classes,):
        raise ValueError(f"{pixels.size} pixel counts for {spec.num_classes} classes; needed: one each")
    if not pixels.sum() > 0:
        raise InputError(
            "the training data has no labelled pixel, so class weights cannot be computed; check its masks, or use `weights: none`"
        )
    share = pixels / pixels.sum()
    seen = share > 0
    weights = np.full(spec.num_classes, config.absent)
    if config.weights == "inverse":
        weights[seen] = 1 / (seen.sum() * share[seen])
    elif config.weights == "median":
        weights[seen] = np.median(share[seen]) / share[seen]
    else:
        weights[seen] = 1 / np.log(config.log_offset + share[seen])
    return [float(weight) for weight in weights]
