"""Any torch.nn.Module (or a callable that makes one), named by its dotted path: a model of your own without a plug-in around it.

For code that exists already: it must be importable where training and inference run, and take images (N, C, H, W) to logits
(N, classes, h, w), which are resized to the image's size; size and work are those of the module.

A checkpoint holds its weights and `target` with its arguments, not its code. A module of segtasks' own form (`Config` and `build`) needs
none of this: its dotted path is the model's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._layers import pad_to_multiple, resize

SMALL = {  # options of the contract tests: a 3x3 convolution
    "target": "torch.nn:Conv2d",
    "arguments": {"kernel_size": 3, "padding": 1},
    "classes_argument": "out_channels",
    "channels_argument": "in_channels",
}
PROBE = 64  # side of the image that a new module is tried on


class Config(BaseConfig):
    """A module by its path, and how it is called."""

    target: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", description="class or callable, as package.module:Name, which gives an nn.Module"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of `target`")
    classes_argument: str | None = Field(
        default="num_classes", description="name of its argument for the number of classes; none: not passed"
    )
    channels_argument: str | None = Field(default=None, description="name of its argument for the input channels; none: not passed")
    output: str | int | None = Field(
        default=None, description="key, attribute or index of the logits in what the module returns; none: it returns them alone"
    )
    multiple: int = Field(
        default=1, ge=1, le=1024, description="sides are padded to multiples of it, by repeating the edge, and cropped back"
    )


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The module, tried on one image. Raises `ConfigError` where it cannot be imported or made, or gives no logits."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"module: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    counts = {config.classes_argument: num_classes, config.channels_argument: in_channels}
    follows = {name: count for name, count in counts.items() if name is not None}
    if clash := sorted({*follows} & {*config.arguments}):
        raise ConfigError(f"module: {', '.join(clash)} of {config.target} follows the data; leave it out of arguments")
    make = _imported(config.target)
    try:
        net = make(**config.arguments, **follows)
    except Exception as error:  # code of somebody else
        passed = ", ".join([*config.arguments, *follows]) or "no arguments"
        raise ConfigError(f"module: {config.target} called with {passed} failed ({type(error).__name__}): {error}") from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"module: {config.target} gives a {type(net).__name__}; needed: a torch.nn.Module")
    found = Module(net, config.output, config.multiple, num_classes, config.target)
    _try(found, in_channels)
    return found


class Module(nn.Module):
    """Somebody's module with segtasks' sizes around it."""

    def __init__(self, net: nn.Module, output: str | int | None, multiple: int, num_classes: int, target: str) -> None:
        super().__init__()
        self.net = net
        self.output, self.multiple, self.num_classes, self.target = output, multiple, num_classes, target

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, C, H, W) -> logits (N, num_classes, H, W), resized bilinearly where the module gives another size."""
        height, width = image_NCHW.shape[-2:]
        padded = pad_to_multiple(image_NCHW, self.multiple)
        logits_NChw = self._logits(self.net(padded))
        return resize(logits_NChw, padded.shape[-2:])[:, :, :height, :width]

    def _logits(self, found: Any) -> Tensor:
        if self.output is not None:
            try:
                named = isinstance(self.output, str) and not isinstance(found, Mapping)
                found = getattr(found, str(self.output)) if named else found[self.output]
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise ConfigError(f"module: {self.target} returns {_shown(found)}, in which there is no {self.output!r}") from error
        if not isinstance(found, Tensor):
            raise ConfigError(f"module: {self.target} returns {_shown(found)}; needed: a tensor; name the logits' place in it as `output`")
        if found.ndim != 4 or found.shape[1] != self.num_classes:
            raise ConfigError(f"module: {self.target} gives {tuple(found.shape)}; needed: logits (N, {self.num_classes}, h, w)")
        return found


def _imported(target: str) -> Callable[..., Any]:
    path, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:  # whatever its import runs
        raise ConfigError(f"module: {path} cannot be imported ({type(error).__name__}): {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"module: {path} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"module: {target} is a {type(found).__name__}; needed: a class or a callable that makes a torch.nn.Module")
    return found  # type: ignore[no-any-return]


def _try(module: Module, in_channels: int) -> None:
    """One image through it, in eval mode, on the device where it was made and without touching torch's random numbers."""
    training = [part for part in module.modules() if part.training]
    device = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.eval()(torch.zeros(1, in_channels, PROBE, PROBE, device=device))
    except ConfigError:
        raise
    except Exception as error:
        if device.type == "meta":  # code that looks at values cannot run on shapes alone; it is tried when it is really made
            return
        raise ConfigError(
            f"module: {module.target} failed on an image (1, {in_channels}, {PROBE}, {PROBE}) ({type(error).__name__}): {error}"
        ) from error
    finally:
        for part in training:
            part.training = True


def _shown(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a {type(found).__name__} with {', '.join(map(str, list(found)[:8])) or 'nothing in it'}"
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a {type(found).__name__}"
