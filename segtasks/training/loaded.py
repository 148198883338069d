"""Find a checkpoint by URL and load its model. Reading runs no code that the checkpoint brings: tensors and JSON only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from segtasks import plugins
from segtasks.config import Plugin
from segtasks.errors import InputError
from segtasks.storage import StorageOptions, open_store
from segtasks.training.checkpoint import COMMIT, Checkpoints, Committed, ModelInfo, open_committed


@dataclass(frozen=True)
class LoadedModel:
    """A model in `eval()` mode on the CPU, what it is, and the step folder it came from."""

    model: nn.Module
    info: ModelInfo
    url: str


def find_checkpoint(url: str, storage: StorageOptions | None = None) -> Committed:
    """The checkpoint at `url`: a step folder, or the final one of a training output. Reads `commit.json` only.

    `InputError` where there is none, or where training is not finished.
    """
    store = open_store(url, storage)
    found = open_committed(store)
    if found is not None:
        return found
    newest: Committed | None = None
    for place in (store.child("checkpoints"), store):
        checkpoints = Checkpoints(place)
        final = checkpoints.final()
        if final is not None:
            return final
        newest = newest or next(checkpoints.committed(), None)
    if newest is not None:
        raise InputError(
            f"training in {url} is not finished: its newest checkpoint is {newest.url} (epoch {newest.commit.epoch}); "
            "finish it by running the same command again, or name that folder"
        )
    here = [entry.path for entry in islice(store.list(), 5)]
    seen = f"it holds {', '.join(here)}{', ...' if len(here) == 5 else ''}" if here else "nothing is there"
    raise InputError(f"{url} is no checkpoint: {seen}; needed: a folder with {COMMIT}, or the output of `segtasks train`")


def load_checkpoint(url: str, storage: StorageOptions | None = None) -> LoadedModel:
    """Build the model that `model.json` names and load its weights. Damage and misfits are an `InputError`."""
    return load_committed(find_checkpoint(url, storage))


def load_committed(checkpoint: Committed) -> LoadedModel:
    """The model of a checkpoint that was found before."""
    info = checkpoint.info()
    model = build_model(info.model, info.spec.num_classes)
    weights = checkpoint.tensors("model")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights in {checkpoint.url} do not fit {info.model.name!r}: {error}") from error
    return LoadedModel(model.eval(), info, checkpoint.url)


def build_model(plugin: Plugin, num_classes: int, *, meta: bool = False) -> nn.Module:
    """The plug-in's model for RGB images. `meta`: shapes only, no memory and no random numbers."""
    module = plugins.load("models", plugin.name)
    config = plugins.configure("models", plugin)
    with torch.device("meta" if meta else "cpu"):
        model: nn.Module = module.build(config, num_classes)
    return model


def class_dependent(plugin: Plugin, num_classes: int) -> tuple[str, ...]:
    """Names of the weights whose shape depends on the number of classes: the head."""
    one, other = (build_model(plugin, count, meta=True).state_dict() for count in (num_classes, num_classes + 1))
    return tuple(name for name in one if name not in other or one[name].shape != other[name].shape)
