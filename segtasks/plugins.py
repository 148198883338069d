"""One module is one plug-in: `segtasks/models/unet.py` with `Config` and `build` *is* the model `unet`. No table, no decorator."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from pydantic import BaseModel

from segtasks.config import Plugin, validate
from segtasks.errors import ConfigError, did_you_mean

KINDS = ("models", "losses", "readers", "writers", "metrics")


def names(kind: str) -> list[str]:
    """The names of the plug-ins that ship with segtasks, sorted. Modules whose name starts with `_` are not plug-ins."""
    package = importlib.import_module(f"segtasks.{kind}")
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import the plug-in's module; a dotted name reaches outside the package. An unknown name is a `ConfigError`."""
    singular = kind[:-2] if kind.endswith("sses") else kind[:-1]
    if "." in name:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"{singular} {name!r} cannot be imported: {error}") from error
    elif name in names(kind):
        module = importlib.import_module(f"segtasks.{kind}.{name}")
    else:
        raise ConfigError(f"no {singular} is called {name!r}.{did_you_mean(name, names(kind))}")
    for needed in ("Config", "build"):
        if not hasattr(module, needed):
            raise ConfigError(f"{singular} {name!r} has no {needed}; a plug-in is a module with Config and build")
    return module


def configure(kind: str, plugin: Plugin) -> BaseModel:
    """The plug-in's own `Config`, validated and with its defaults filled in: what the recipe records."""
    config_class: type[BaseModel] = load(kind, plugin.name).Config
    return validate(config_class, plugin.options, where=f"{plugin.name}.options")


def resolved(kind: str, plugin: Plugin) -> Plugin:
    """The same plug-in with every default written out."""
    return Plugin(name=plugin.name, options=configure(kind, plugin).model_dump(mode="json"))
