"""A weighted sum of losses, each with a weight that may change in the course of training.

For a loss of regions with one of boundaries that takes over, or any other mixture. Each term has `weight`; with `schedule: linear` or
`cosine` it is the last of a ramp that begins at `initial` (0 by default) and lasts from `start` to `end`, shares of all training steps;
`start` equal to `end` is a step. Weights depend on the share of steps alone, so a run that was stopped goes on as if it had not been.
Kervadec's rebalancing (1 - a) regional + a boundary is two ramps: weight 0.01 from initial 1 for the one, 0.99 from initial 0 for the
other. A term is not computed while its weight is 0. Losses of plug-ins outside of the package may be terms, sums may be terms of sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from segtasks import plugins
from segtasks.config import Config as BaseConfig
from segtasks.config import Plugin
from segtasks.errors import ConfigError, SegtasksError
from segtasks.losses._base import Loss
from segtasks.spec import DatasetSpec

SMALL = {"terms": [{"loss": "cross_entropy"}, {"loss": "boundary", "weight": 0.1}]}


class Term(BaseConfig):
    """One loss and its weight. A bare string is short for `{loss: ...}`."""

    loss: Plugin = Field(description="loss: `segtasks losses` lists them")
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="what the loss is multiplied by; of a ramp the last")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="constant", description="how the weight changes from start to end")
    initial: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="of a ramp: the weight until its start")
    start: float = Field(default=0.0, ge=0, le=1, description="of a ramp: share of all steps at which it begins")
    end: float = Field(default=1.0, ge=0, le=1, description="of a ramp: share of all steps at which the weight is reached")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"loss": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _a_ramp_goes_forward(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"start {self.start:g} is after end {self.end:g}; needed: shares of training in their order")
        if self.schedule == "constant" and (self.initial, self.start, self.end) != (0, 0, 1):
            raise ValueError("initial, start and end are of a ramp; needed: `schedule: linear` or `cosine`")
        return self

    def weight_at(self, share: float) -> float:
        """The weight once `share` of all steps are done."""
        if self.schedule == "constant" or share >= self.end:
            return self.weight
        done = max(0.0, (share - self.start) / (self.end - self.start)) if self.end > self.start else 0.0
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.initial + (self.weight - self.initial) * done


class Config(BaseConfig):
    """Weighted sum of losses."""

    terms: tuple[Term, ...] = Field(
        description="each {loss, weight}; with schedule linear or cosine the weight goes from `initial` (0) to `weight` (1) between the "
        "shares `start` (0) and `end` (1) of training"
    )

    @field_validator("terms")
    @classmethod
    def _resolved(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """Checked, and with every default written out: what the recipe records."""
        if not terms:
            raise ValueError(
                "a sum without terms; needed: at least one, for example `terms: [{loss: dice}, {loss: boundary, weight: 0.01}]`"
            )
        resolved = []
        for place, term in enumerate(terms):
            try:
                resolved.append(term.model_copy(update={"loss": plugins.resolved("losses", term.loss)}))
            except ConfigError as error:
                raise ConfigError(f"{_name(place, term)}: {error}") from error
        return tuple(resolved)

    @model_validator(mode="after")
    def _something_is_always_learned(self) -> Self:
        moments = sorted({0.0, 1.0, *(moment for term in self.terms for moment in (term.start, term.end))})
        for start, end in itertools.pairwise(moments):
            if not any(term.weight_at((start + end) / 2) for term in self.terms):
                raise ValueError(f"all weights are 0 from {start:g} to {end:g} of training; needed: a term that is learned from")
        return self


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels` goes to the terms. Errors of a term name it."""
    losses: list[Callable[[Tensor, Tensor], Tensor]] = []
    for place, term in enumerate(config.terms):
        try:
            losses.append(plugins.load("losses", term.loss.name).build(plugins.configure("losses", term.loss), spec, class_pixels))
        except SegtasksError as error:
            raise type(error)(f"{_name(place, term)}: {error}") from error
    return WeightedSum(spec, config.terms, losses)


class WeightedSum(Loss):
    """sum over the terms of weight x loss; `set_progress` says where in training it is."""

    def __init__(self, spec: DatasetSpec, terms: Sequence[Term], losses: Sequence[Callable[[Tensor, Tensor], Tensor]]) -> None:
        super().__init__(spec)
        self.terms, self.losses = list(terms), list(losses)
        self.modules_of_terms = nn.ModuleList(loss for loss in losses if isinstance(loss, nn.Module))  # so that they move with it
        self.share = 0.0

    def set_progress(self, share: float) -> None:
        self.share = share
        for loss in self.losses:
            if isinstance(loss, Loss):
                loss.set_progress(share)

    def weights(self) -> list[float]:
        """Of each term, now."""
        return [term.weight_at(self.share) for term in self.terms]

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        target_NHW = class_NHW.where(valid_NHW, self.ignore_index)
        total = logits_NCHW[:0].sum()  # 0, and part of the graph where every weight is 0 at this one step
        for weight, loss in zip(self.weights(), self.losses, strict=True):
            if weight:
                total = total + weight * loss(logits_NCHW, target_NHW)
        return total


def _name(place: int, term: Term) -> str:
    return f"weighted_sum.options.terms.{place} ({term.loss.name})"
