"""What a training run is asked to do. Fields made with `execution(...)` change how it runs, never which weights come out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from segtasks.config import Config, Plugin, execution
from segtasks.transforms.config import AugmentConfig


class Oversample(Config):
    """Images with rare classes come more often: once, and again (threshold / share) ** power - 1 times on average."""

    threshold: float = Field(
        gt=0, le=1, description="share of the training images: a class that fewer of them have is rare (LVIS: 0.001 of 1203 classes)"
    )
    power: float = Field(default=0.5, ge=0, le=1, description="0: no image comes again; 1: rare classes as often as the threshold")


class TrainingConfig(Config):
    """Model, loss, optimisation, augmentation and validation."""

    model: Plugin = Field(default=Plugin(name="unet"), description="model: `segtasks models` lists them")
    loss: Plugin = Field(default=Plugin(name="weighted_cross_entropy"), description="loss: `segtasks losses` lists them")
    epochs: int = Field(default=40, ge=1, description="passes over the training split")
    batch_size: int = Field(default=8, ge=1, description="images in one optimiser step, over all workers together")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd: with Nesterov momentum 0.9")
    lr: float = Field(default=2e-3, gt=0, description="largest learning rate of the schedule")
    weight_decay: float = Field(default=1e-2, ge=0, description="on weights; biases and normalisation layers have none")
    schedule: Literal["one_cycle", "poly", "cosine", "constant"] = Field(
        default="one_cycle", description="how the learning rate falls after the warm-up; poly: power 0.9"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of all steps in which the learning rate rises")
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; none: not clipped")
    ema: float | None = Field(
        default=0.99, gt=0, lt=1, description="decay a step of the averaged weights that become the result; none: the last weights"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="augmentation of the training images")
    oversample: Oversample | None = Field(
        default=None, description="images with rare classes come more often in an epoch, which grows by them (repeat factors of LVIS)"
    )
    mean: tuple[float, float, float] = Field(default=(0.485, 0.456, 0.406), description="subtracted from RGB in 0..1")
    std: tuple[float, float, float] = Field(default=(0.229, 0.224, 0.225), description="RGB is divided by it after that")
    train_split: str = Field(default="train", description="split that is trained on")
    val_split: str | None = Field(default="val", description="split that is validated on; none: no validation")
    eval_every: int = Field(default=10, ge=1, description="validate after every n epochs, and after the last")
    seed: int = Field(default=0, ge=0, description="of the initial weights, the order, the augmentation and dropout")
    shuffle_bytes: int = Field(
        default=512 << 20, ge=1, description="bytes of shards whose images are shuffled together; up to twice as many are held in memory"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16: autocast; on CPU it was no faster")
    init_from: str | None = execution(
        None, description="checkpoint folder or training output to start from; the digest of its weights is in the recipe"
    )
    weights: str | None = execution(
        None,
        description="file or URL (.pth, .pt, .safetensors) of pretrained weights of the model's backbone, such as torchvision's for "
        "ImageNet, which want the mean and std that are the defaults here; the sha256 of the file is in the recipe",
    )
    checkpoint_every: int = execution(1, ge=1, description="write a checkpoint after every n epochs, and after the last")
    keep_checkpoints: int = execution(2, ge=1, description="how many checkpoints are kept")
    loader_threads: int = execution(2, ge=1, description="threads in each worker that decode and augment")
    prefetch: int = execution(4, ge=1, description="batches made ahead of the model")
    cache_bytes: int = execution(2 << 30, ge=0, description="memory in each worker for decoded images, in bytes")

    @model_validator(mode="after")
    def _std_is_positive(self) -> TrainingConfig:
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; needed: positive numbers")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> TrainingConfig:
        if self.weights is not None and self.init_from is not None:
            raise ValueError(
                f"weights ({self.weights}) and init_from ({self.init_from}) are both set; needed: one of them: init_from brings a whole "
                "model, its backbone included"
            )
        return self
