"""Tensors as safetensors bytes, in parts that fit one create-only object; and weights carried over to another model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from segtasks.errors import InputError

part_bytes = 128 << 20


def pack(stem: str, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """File name -> bytes: `stem.safetensors`, or `stem-00001-of-00003.safetensors` and so on (Hugging Face's way of naming)."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        if tensor.data_ptr() in seen:  # tied weights: safetensors refuses tensors that share memory
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        size += tensor.nbytes
        if size > part_bytes and parts[-1]:
            parts.append({})
            size = tensor.nbytes
        parts[-1][name] = tensor
    if len(parts) == 1:
        return {f"{stem}.safetensors": save(parts[0])}
    return {f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors": save(part) for number, part in enumerate(parts, start=1)}


def unpack(files: Mapping[str, bytes], where: str) -> dict[str, Tensor]:
    """The tensors of all parts. Bytes that are not safetensors are an `InputError`."""
    tensors: dict[str, Tensor] = {}
    for name, data in files.items():
        try:
            tensors.update(load(data))
        except SafetensorError as error:
            raise InputError(f"{where}/{name} is not a safetensors file ({error}); needed: a checkpoint of segtasks") from error
    return tensors


def weights_digest(files: Mapping[str, bytes]) -> str:
    """sha256 of the weights file; of the parts' hashes in order where there are several."""
    hashes = [hashlib.sha256(files[name]).hexdigest() for name in sorted(files)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class Transfer:
    """Which weights were taken over. `str()` is the report for the user."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the model only: they keep their fresh values
    unexpected: tuple[str, ...]  # in the checkpoint only
    mismatched: tuple[str, ...]  # `name: 11x16x1x1 in the checkpoint, 2x16x1x1 here`

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for word, names in (("new here, freshly initialised", self.missing), ("not used", self.unexpected)):
            if names:
                lines.append(f"{len(names)} {word}: {_some(names)}")
        if self.mismatched:
            lines.append(f"{len(self.mismatched)} of another shape, freshly initialised: {_some(self.mismatched)}")
        return "; ".join(lines)


def transfer(model: nn.Module, weights: Mapping[str, Tensor], *, fresh: tuple[str, ...] = ()) -> Transfer:
    """Copy weights that agree in name and shape into `model`; all others keep their values. Names in `fresh` are left as they are.

    Raises `InputError` where nothing at all agrees.
    """
    own = model.state_dict()
    loaded, mismatched = [], []
    for name, tensor in own.items():
        given = weights.get(name)
        if given is None or name in fresh:
            continue
        if given.shape != tensor.shape:
            mismatched.append(f"{name}: {_shape(given)} in the checkpoint, {_shape(tensor)} here")
            continue
        with torch.no_grad():
            tensor.copy_(given)
        loaded.append(name)
    missing = [name for name in own if name not in weights or name in fresh]
    unexpected = [name for name in weights if name not in own]
    if not loaded:
        raise InputError(
            f"no weight of the checkpoint fits this model: it has {_some(sorted(weights))}; the model needs {_some(sorted(own))}; "
            "use the checkpoint's architecture"
        )
    return Transfer(tuple(loaded), tuple(missing), tuple(unexpected), tuple(mismatched))


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "scalar"


def _some(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
