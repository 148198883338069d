"""Hugging Face transformers: a semantic (SegFormer, UperNet, DPT, ...) or mask (Mask2Former, MaskFormer, EoMT) model from a folder.

For fine-tuning what others trained on large data: give the folder as `path` and its `model.safetensors` as the run's `weights`, and use
the mean and std of its preprocessor_config.json; size and work are those of the model in the folder.

Nothing is fetched and no code of the folder is run. Only its config.json is read, when the run is planned, and recorded in the checkpoint,
which loads without the folder. The head follows the data set's classes. A mask model's logits are the log of its scores per class (class
probabilities times mask probabilities, summed over the queries, as its image processor does), so that softmax gives shares of the score.
OneFormer (it wants a text beside the image) and BEiT are not covered. Auxiliary heads of semantic models are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, MissingExtra
from segtasks.models._hf_build import freeze_unused, prepare
from segtasks.models._hf_config import kept, read_config, refuse_hub_names, set_channels
from segtasks.models._hf_models import MaskModel, SemanticModel

MASK_MODELS = ("mask2former", "maskformer", "eomt", "eomt_dinov3")
REFUSED = ("beit", "data2vec-vision")  # they keep tensors of validation's inference mode, and the next training step fails
OF_ONE_SIZE = ("dpt", "eomt", "eomt_dinov3")  # position embeddings for `image_size` alone

SMALL = {  # options of the contract tests: a SegFormer
    "config": {
        "model_type": "segformer",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 24, 32],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 32,
    }
}


class Config(BaseConfig):
    """A model of transformers, by its folder."""

    path: str | None = Field(
        default=None, description="local folder with the model's config.json, which is read into `config`; the path itself is not recorded"
    )
    config: dict[str, Any] = Field(description="the architecture, as in config.json; filled in from `path`")
    size: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="images are resized to this square for the model, and its logits back; default: none, or the model's own image_size "
        "where it knows but one (DPT, EoMT)",
    )
    multiple: int = Field(
        default=32, ge=1, le=1024, description="sides are padded to multiples of it, by repeating the edge; not with `size`"
    )
    objective: Literal["masks", "pixels"] = Field(
        default="masks",
        description="how a mask model is trained: masks (its own loss of matched masks and classes; the run's loss is not used) or pixels "
        "(the run's loss of its logits); other models always have the run's loss",
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        folder, given = value.get("path"), value.get("config")
        if folder is None and given is None:
            raise ValueError("needs path: the local folder of a model in the Hugging Face format")
        if isinstance(folder, str):
            found = read_config(folder)
            if given is not None and given != found:
                raise ValueError(f"path and config disagree: {folder} holds another configuration; give one of them")
            return {**value, "path": None, "config": found}
        return {**value, "config": kept(given)} if isinstance(given, dict) else value


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The architecture with transformers' fresh weights from torch's global generator.

    Raises `ConfigError` where transformers cannot build it or it is no model for segmentation, `MissingExtra` without transformers.
    """
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"hf: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    try:
        from transformers.models.auto import CONFIG_MAPPING, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEMANTIC
    except ImportError as error:
        raise MissingExtra(f"model hf needs transformers ({error}): pip install 'segtasks[hf]'") from error
    kind = config.config.get("model_type")
    known = {*SEMANTIC, *MASK_MODELS} - {*REFUSED}
    if kind not in known:
        raise ConfigError(
            f"hf: {kind!r} is no model for segmentation that segtasks can use; needed as model_type: {', '.join(sorted(known))}"
        )
    refuse_hub_names(config.config)
    try:
        theirs = CONFIG_MAPPING[kind].from_dict({**config.config, "num_labels": num_classes})
        set_channels(theirs, in_channels)
        if hasattr(theirs, "use_auxiliary_head"):
            theirs.use_auxiliary_head = False
        make: Any = (AutoModelForUniversalSegmentation if kind in MASK_MODELS else AutoModelForSemanticSegmentation).from_config
        net = prepare(make(theirs))
    except ConfigError:
        raise
    except ImportError as error:
        raise MissingExtra(f"model hf: {kind} needs another package: {' '.join(str(error).split())}") from error
    except Exception as error:  # whatever transformers raises on a configuration
        raise ConfigError(f"hf: transformers cannot build this {kind} ({type(error).__name__}): {error}") from error
    size = config.size or (theirs.image_size if kind in OF_ONE_SIZE else None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    freeze_unused(net, lambda: make(theirs), (2, in_channels, *[size or 4 * config.multiple] * 2))
    return (MaskModel if kind in MASK_MODELS else SemanticModel)(net, size, config.multiple, config.objective)
