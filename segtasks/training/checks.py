"""What can be known to be wrong before the first batch."""

from __future__ import annotations

from segtasks.config import Plugin
from segtasks.errors import ConfigError, InputError
from segtasks.training.config import TrainingConfig
from segtasks.training.index import SplitIndex
from segtasks.training.loaded import LoadedModel


def require_same_architecture(model: Plugin, initial: LoadedModel) -> None:
    """Raise `ConfigError` where `init_from` is another kind of model than the configuration's."""
    if model.name != initial.info.model.name:
        raise ConfigError(
            f"init_from {initial.url} is a {initial.info.model.name!r}, the configuration asks for {model.name!r}; "
            f"set model.name={initial.info.model.name}, or use another checkpoint"
        )


def require_one_size(config: TrainingConfig, index: SplitIndex) -> None:
    """Raise `InputError` where images would not fit into one batch."""
    sizes = index.distinct_sizes()
    if config.augment.crop is None and config.batch_size > 1 and len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:5]) + (", ..." if len(sizes) > 5 else "")
        raise InputError(
            f"split {config.train_split!r} has images of {len(sizes)} sizes ({shown}); a batch needs one: run `segtasks preprocess` with "
            "resize (stretch, letterbox) or tile, or set augment.crop to [height, width]"
        )
