"""`config.json` of a Hugging Face model folder: read once, when a run is planned, and recorded, so that a checkpoint needs no folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segtasks.errors import ConfigError

JSON = dict[str, Any]

FILE = "config.json"
# What changes neither layers nor weights, or follows the run: its classes, its precision. Code that a folder names is never run.
LEFT_OUT = (
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "num_labels", "torch_dtype", "transformers_version",
    "use_pretrained_backbone",
)  # fmt: skip


def read_config(folder: str) -> JSON:
    """What `folder/config.json` says of the architecture. Raises `ValueError` (a validator's) where it is missing or no such file."""
    path = Path(folder).expanduser()
    if "://" in folder or not path.is_dir():
        raise ValueError(f"{folder} is no local folder; needed: the folder that save_pretrained or a download of the model made")
    try:
        found = json.loads((path / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        here = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"{folder} has no {FILE}; it holds {here}; needed: the folder of a model in the Hugging Face format") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path / FILE} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ValueError(f"{path / FILE} names no model_type; needed: the {FILE} of a transformers model")
    return kept(found)


def kept(config: JSON) -> JSON:
    """The part of a configuration that is recorded, parts such as `backbone_config` included."""
    return {name: kept(value) if isinstance(value, dict) else value for name, value in config.items() if name not in LEFT_OUT}


def refuse_hub_names(config: JSON) -> None:
    """`ConfigError` where a backbone is given by its name on the hub, or is timm's: nothing is ever looked up on the hub."""
    name = config.get("backbone")
    if isinstance(name, str) and not isinstance(config.get("backbone_config"), dict):
        raise ConfigError(
            f"hf: the configuration names the backbone {name!r} of another project; needed: its own configuration as backbone_config "
            "(save the model anew with a current transformers, which writes it)"
        )


def set_channels(config: Any, channels: int) -> None:
    """Input channels of a transformers configuration, and of its backbone's. `ConfigError` if it has no such setting, but for 3."""
    parts: list[Any] = [part for part in (config, getattr(config, "backbone_config", None)) if hasattr(part, "num_channels")]
    if channels != 3 and not parts:
        raise ConfigError(f"hf: {config.model_type} takes RGB images alone, not {channels} channels")
    for part in parts:
        part.num_channels = channels
