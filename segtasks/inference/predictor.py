"""Masks from images with a loaded model: resize, normalise, forward, upsample, largest class.

An image's mask does not depend on the images it shares a batch with, up to the rounding of the CPU's convolution kernels, which
may differ with the batch's size (at least 99.99% equal pixels; the test says how many).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtasks.errors import ConfigError
from segtasks.inference.fold import fold_batch_norm
from segtasks.inference.upsample import largest_class
from segtasks.spec import ClassSpec
from segtasks.training.classes import index_table, mapped_classes
from segtasks.training.loaded import LoadedModel
from segtasks.transforms.normalise import Normalise
from segtasks.transforms.resize import resize_image

Image = NDArray[np.uint8]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Prepared:
    """An image at the model's size, and the height and width its mask will have."""

    pixels: Image
    height: int
    width: int


@dataclass(frozen=True)
class Prediction:
    """`mask`: class indices HxW of the image's own size, uint8 (uint16 above 256 classes); `class_pixels`: how many of each."""

    mask: NDArray[np.uint8] | NDArray[np.uint16]
    class_pixels: NDArray[np.int64]
    mean_confidence: float  # largest softmax probability, averaged over the model's own grid (before upsampling)


class Predictor:
    """A model made ready for one device: BatchNorm folded, channels_last, in its precision."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        precision: Precision = "float32",
        batch_size: int = 4,
        threads: int | None = None,
        device: str = "cpu",
        class_map: Mapping[str, str] | None = None,
    ) -> None:
        """`class_map` renames or merges the model's classes; `threads` sets torch's threads for the whole process."""
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; needed: at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        info = loaded.info
        self.batch_size = batch_size
        self.classes: tuple[ClassSpec, ...] = mapped_classes(info.spec.classes, class_map or {})
        self._mapping = index_table(info.spec.classes, class_map or {}, self.classes)
        self._mask_type: Any = np.uint8 if len(self.classes) <= 256 else np.uint16
        self._resize = info.spec.resize
        self._normalise = Normalise(info.mean, info.std, device)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        size = (self._resize.height, self._resize.width) if self._resize else (64, 64)
        generator = torch.Generator().manual_seed(0)
        example_NHWC = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=generator)
        model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        folded, self.folded = fold_batch_norm(model, self._normalise(example_NHWC))
        if folded is loaded.model and self._dtype != torch.float32:
            folded = copy.deepcopy(folded)  # the loaded model stays as it is
        self._model = folded.to(dtype=self._dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def prepare(self, image: Image) -> Prepared:
        """Resize uint8 HxWx3 to the model's size. Safe in other threads; `predict_prepared` does the rest."""
        height, width = image.shape[:2]
        if self._resize is not None:
            image = resize_image(image, self._resize.height, self._resize.width)
        return Prepared(image, height, width)

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """One prediction an image, in order. `images` are uint8 RGB HxWx3 of any sizes."""
        return self.predict_prepared([self.prepare(image) for image in images])

    def predict_prepared(self, images: Sequence[Prepared]) -> list[Prediction]:
        """As `predict`, for images that are resized already. Only images of one size share a batch."""
        by_size: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, image in enumerate(images):
            by_size[image.pixels.shape].append(place)
        found: dict[int, Prediction] = {}
        for places in by_size.values():
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                found.update(zip(batch, self._forward([images[place] for place in batch]), strict=True))
        return [found[place] for place in range(len(images))]

    @torch.inference_mode()
    def _forward(self, images: Sequence[Prepared]) -> list[Prediction]:
        batch_NHWC = torch.from_numpy(np.stack([image.pixels for image in images]))
        logits_NCHW = self._model(self._normalise(batch_NHWC).to(self._dtype)).float()
        return [self._finish(logits, image) for logits, image in zip(logits_NCHW, images, strict=True)]

    def _finish(self, logits_CHW: Tensor, image: Prepared) -> Prediction:
        largest = logits_CHW.amax(dim=0)
        confidence = torch.exp(largest - torch.logsumexp(logits_CHW, dim=0)).mean()
        labels = largest_class(logits_CHW, image.height, image.width).cpu().numpy()
        mask = self._mapping.astype(self._mask_type)[labels]
        class_pixels = np.bincount(mask.reshape(-1), minlength=len(self.classes)).astype(np.int64)
        return Prediction(mask, class_pixels, float(confidence))
