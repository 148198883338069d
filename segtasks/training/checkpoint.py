"""Checkpoints in a store: `step-00000460/` with weights, `model.json`, `state.*` and, last, `commit.json`. No pickle.

A folder without a valid commit does not exist for readers. `commit.json` names every file with its sha256, so a folder that two
runs wrote into at once is never taken for a good one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from segtasks import __version__
from segtasks.config import Config, Plugin
from segtasks.errors import InputError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

if TYPE_CHECKING:
    from torch import Tensor

COMMIT = "commit.json"
MODEL = "model.json"
HISTORY = "history.json"
STATE = "state.json"
JSON = dict[str, Any]


class ModelInfo(Config):
    """`model.json`: all that is needed to use the weights, and where they come from."""

    format: int = Field(default=1, description="version of this file")
    model: Plugin = Field(description="architecture with every option written out")
    spec: DatasetSpec = Field(description="classes with colours, ignore value, decoding, and the size images are resized to")
    mean: tuple[float, float, float] = Field(description="subtracted from RGB in 0..1")
    std: tuple[float, float, float] = Field(description="RGB is divided by it after that")
    weights: tuple[str, ...] = Field(description="files of the weights")
    digest: str = Field(description="sha256 of the weights file (of the parts' hashes where there are several)")
    training: dict[str, Any] = Field(description="provenance: data, configuration, epoch, step, metrics")
    segtasks: str = Field(default=__version__, description="version that wrote it")


class Commit(Config):
    """`commit.json`: the files that make up the checkpoint."""

    format: int = Field(default=1, description="version of this file")
    step: int = Field(ge=0, description="optimiser steps done")
    epoch: int = Field(ge=0, description="epochs done")
    final: bool = Field(description="training is finished: this is its result")
    files: dict[str, str] = Field(description="sha256 of each file")


@dataclass(frozen=True)
class Committed:
    """A committed step folder; files are checked against their hashes as they are read."""

    store: Store
    commit: Commit

    @property
    def url(self) -> str:
        return self.store.url

    def read(self, name: str) -> bytes:
        """A file of the checkpoint. Missing or changed bytes are an `InputError`."""
        if name not in self.commit.files:
            raise InputError(f"{self.url} has no {name}; it has {', '.join(sorted(self.commit.files))}")
        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            raise InputError(f"{self.url}/{name} is missing, though {COMMIT} names it; needed: a whole checkpoint") from error
        if (found := hashlib.sha256(data).hexdigest()) != self.commit.files[name]:
            raise InputError(
                f"{self.url}/{name} is damaged: its sha256 is {found[:16]}..., {COMMIT} says {self.commit.files[name][:16]}...; "
                "needed: an undamaged copy, or an earlier step's folder"
            )
        return data

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def info(self) -> ModelInfo:
        try:
            return ModelInfo.model_validate(self.read_json(MODEL))
        except (ValidationError, ValueError) as error:
            raise InputError(f"{self.url}/{MODEL} is not a description of a model that this version reads: {error}") from error

    def tensors(self, stem: str) -> dict[str, Tensor]:
        """The tensors of `stem.safetensors`, or of its parts."""
        from segtasks.training.weights import unpack

        names = [name for name in self.commit.files if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors", name)]
        return unpack({name: self.read(name) for name in sorted(names)}, self.url)


class Checkpoints:
    """The step folders under a store, which is rooted at `<output>/checkpoints`."""

    def __init__(self, store: Store, keep: int = 2) -> None:
        self.store = store
        self.keep = keep

    def committed(self) -> Iterator[Committed]:
        """The folders with a readable commit, newest first."""
        folders = {entry.path.partition("/")[0] for entry in self.store.list() if entry.path.endswith(f"/{COMMIT}")}
        for folder in sorted((name for name in folders if re.fullmatch(r"step-\d{8,}", name)), key=_step_of, reverse=True):
            found = open_committed(self.store.child(folder))
            if found is not None:
                yield found

    def latest(self) -> Committed | None:
        """The newest checkpoint whose files are all there and undamaged."""
        return next((found for found in self.committed() if _intact(found)), None)

    def final(self) -> Committed | None:
        """The result of a finished training."""
        return next((found for found in self.committed() if found.commit.final), None)

    def write(self, files: Mapping[str, bytes], *, step: int, epoch: int, final: bool) -> Committed:
        """Write a step folder and commit it; then remove all but the newest `keep`. A folder that is intact already is kept."""
        store = self.store.child(f"step-{step:08d}")
        existing = open_committed(store)
        if existing is not None and existing.commit.final >= final and _intact(existing):
            return existing
        store.delete(COMMIT)  # of a damaged folder: without it, nobody reads what is being replaced
        for name, data in files.items():
            _replace(store, name, data)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        commit = Commit(step=step, epoch=epoch, final=final, files=hashes)
        store.create(COMMIT, _json_bytes(commit.model_dump(mode="json")))
        self._prune()
        return Committed(store, commit)

    def _prune(self) -> None:
        for old in list(self.committed())[self.keep :]:
            old.store.delete(COMMIT)  # first: a folder half removed must not look whole
            for name in old.commit.files:
                old.store.delete(name)


def model_files(info: ModelInfo, weights: Mapping[str, bytes], history: list[JSON], state: JSON) -> dict[str, bytes]:
    """The files of a step folder but the optimiser's tensors."""
    return {
        **weights,
        MODEL: _json_bytes(info.model_dump(mode="json")),
        HISTORY: _json_bytes(history),
        STATE: _json_bytes(state),
    }


def open_committed(store: Store) -> Committed | None:
    """The checkpoint in this very folder, or None without a readable commit."""
    try:
        return Committed(store, Commit.model_validate_json(store.read(COMMIT)))
    except (FileNotFoundError, ValidationError):
        return None


def _intact(checkpoint: Committed) -> bool:
    try:
        for name in checkpoint.commit.files:
            checkpoint.read(name)
    except InputError:
        return False
    return True


def _replace(store: Store, name: str, data: bytes) -> None:
    """Create the file, in place of what a killed run may have left of an uncommitted folder."""
    while not store.create(name, data):
        if store.read(name) == data:
            return
        store.delete(name)


def _step_of(folder: str) -> int:
    return int(folder.removeprefix("step-"))


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
