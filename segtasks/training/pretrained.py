"""Pretrained weights for a model's backbone: a state dict under torchvision's names, such as its official ImageNet weights.

Tensors only are read: a file that brings code is refused.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from segtasks import plugins
from segtasks.config import Plugin
from segtasks.errors import ConfigError, InputError
from segtasks.storage import StorageOptions, Store, open_store
from segtasks.training.loaded import build_model
from segtasks.training.weights import transfer

CLASSIFIERS = ("fc.", "classifier.")  # torchvision's, of ResNet, and of VGG and MobileNet
NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights in what they save
NEEDED = "needed: a state dict, as .pth or .pt (torch.save) or .safetensors"


@dataclass(frozen=True)
class Pretrained:
    """A file of weights that was found when the run was planned; `digest` is its sha256. Goes to the ranks by pickle."""

    url: str
    digest: str
    storage: StorageOptions = field(default_factory=dict, repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """What is in the file. `InputError` if it is no state dict, or no longer the file that was planned with."""
        data = _read(*_locate(self.url, self.storage))
        if (found := hashlib.sha256(data).hexdigest()) != self.digest:
            raise InputError(
                f"{self.url} changed since the run was planned: its sha256 was {self.digest[:16]}... and is {found[:16]}...; run again"
            )
        return read_weights(data, self.url)


def plan_pretrained(plugin: Plugin, num_classes: int, url: str, storage: StorageOptions | None = None) -> Pretrained:
    """The file at `url`, tried on the model's shapes before anything is written.

    Raises `InputError` where there is no file, where it is no state dict or nothing in it fits, and for a model without a backbone,
    naming those that have one.
    """
    model = build_model(plugin, num_classes, meta=True)
    if _backbone(model) is None:
        raise InputError(
            f"model {plugin.name!r} has no backbone to load weights into; models that have one: {', '.join(with_backbone())}. "
            "Leave weights out, or use init_from for weights that segtasks trained"
        )
    store, name = _locate(url, storage)
    data = _read(store, name)
    pretrained = Pretrained(store.url_of(name), hashlib.sha256(data).hexdigest(), storage or {})
    load_tensors(model, read_weights(data, pretrained.url), pretrained.url)
    return pretrained


def with_backbone() -> list[str]:
    """Models that ship with segtasks and, with their default options, have a backbone."""
    found = []
    for name in plugins.names("models"):
        try:
            model = build_model(Plugin(name=name), 2, meta=True)
        except ConfigError:  # an extra is missing, or an option has no default
            continue
        if _backbone(model) is not None:
            found.append(name)
    return found


def load_backbone(model: nn.Module, pretrained: Pretrained) -> str:
    """Load the file into `model.backbone`; the report for the run's notes. Raises as `plan_pretrained` does."""
    report = load_tensors(model, pretrained.tensors(), pretrained.url)
    return f"backbone's weights from {pretrained.url} (sha256 {pretrained.digest[:16]}): {report}"


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> str:
    """Load a state dict into `model.backbone` and say what was loaded, what is missing and what was left over.

    The first convolution is adapted to the model's input channels, the file's classifier is left out. Raises `InputError` where less
    than half of the convolutions fit: such a file is another network's.
    """
    backbone = _backbone(model)
    if backbone is None:
        raise InputError(f"{type(model).__name__} has no backbone to load {where} into")
    # a model of another library brings its own names and what they were in earlier versions
    weights: dict[str, Tensor] = getattr(model, "backbone_weights", of_backbone)(tensors)
    notes: list[str] = []
    first = f"{getattr(backbone, 'first', None)}.weight"
    own = backbone.state_dict()
    if first in weights and first in own and own[first].ndim == weights[first].ndim == 4:
        given, needed = weights[first].shape[1], own[first].shape[1]
        if given != needed:
            weights[first] = adapt_channels(weights[first], needed)
            notes.append(f"{first} adapted from {given} input channels to {needed}; ")
    classifier = [name for name in weights if name.startswith(CLASSIFIERS) and name not in own]
    if classifier:
        notes.append(f"the classifier ({', '.join(classifier)}) left out; ")
    weights = {name: tensor for name, tensor in weights.items() if name not in classifier}
    try:
        found = transfer(backbone, weights)
    except InputError as error:
        raise InputError(f"{where} has other weights than the model's backbone: {error}") from error
    convolutions = [name for name in own if own[name].ndim > 1]
    fitting = len({*convolutions} & {*found.loaded})
    if 2 * fitting < len(convolutions):
        raise InputError(
            f"{where} has other weights than the model's backbone: {fitting} of {len(convolutions)} convolutions fit; {found}. "
            "Use weights of the same backbone, under torchvision's names"
        )
    # files from before PyTorch 0.4.1, such as torchvision's VGG, do not count batches
    found = replace(found, missing=tuple(name for name in found.missing if not name.endswith("num_batches_tracked")))
    return f"{''.join(notes)}{found}"


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight (out, 3, k, k) for another number of input channels.

    One: the sum over RGB, so that a grey image gives what its RGB copy gives. N: RGB again and again, times 3/N, so that the sum of the
    responses keeps its size.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % given] * (given / channels)


def of_backbone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of `DataParallel`; of a whole segmentation model's weights those of its `backbone`."""
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    inside = {name.removeprefix("backbone."): tensor for name, tensor in plain.items() if name.startswith("backbone.")}
    return inside or plain


def read_weights(data: bytes, where: str) -> dict[str, Tensor]:
    """The state dict in the bytes of a file, `where` being its URL. Anything else is an `InputError`."""
    if where.endswith(".safetensors"):
        try:
            return load(data)
        except SafetensorError as error:
            raise InputError(f"{where} is not a safetensors file ({error}); {NEEDED}") from error
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        why = (
            str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0].partition(" was not an allowed")[0].strip()
            or "no reason given"
        )
        what = "holds more than tensors" if "Unsupported global" in why else "is not a file of weights"
        raise InputError(f"{where} {what} ({type(error).__name__}: {why[:200]}); {NEEDED}") from error
    if isinstance(found, dict):
        found = next((found[key] for key in NESTED if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict):
        raise InputError(f"{where} holds a {type(found).__name__}; {NEEDED}")
    tensors = {name: tensor for name, tensor in found.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not tensors:
        raise InputError(f"{where} holds no tensors, but {_kinds(found)}; {NEEDED}")
    return tensors


def _kinds(found: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name}: {type(value).__name__}" for name, value in list(found.items())[:5]) or "nothing"


def _backbone(model: nn.Module) -> nn.Module | None:
    backbone = getattr(model, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else None


def _locate(url: str, storage: StorageOptions | None) -> tuple[Store, str]:
    folder, _, name = url.rpartition("/")
    if not name:
        raise InputError(f"{url} is a folder; {NEEDED}")
    return open_store(folder or ("/" if url.startswith("/") else "."), storage), name


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"there is no file of weights at {store.url_of(name)}; {NEEDED}") from error
