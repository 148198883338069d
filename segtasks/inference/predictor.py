"""Masks from images with a loaded model: crop and resize as in its training, normalise, forward, upsample, largest class.

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

from segtasks.errors import ConfigError, InputError, ShapeError
from segtasks.inference.config import Crf
from segtasks.inference.crf import refine
from segtasks.inference.fold import fold_batch_norm
from segtasks.inference.upsample import largest_class
from segtasks.models._layers import resize
from segtasks.spec import MEAN_COLOR, ClassSpec, Crop, DatasetSpec, Resize
from segtasks.training.classes import index_table, mapped_classes
from segtasks.training.loaded import LoadedModel
from segtasks.transforms.fit import Fit, fit_image, plan_fit
from segtasks.transforms.normalise import Normalise
from segtasks.transforms.pad import pad_mask

Image = NDArray[np.uint8]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Prepared:
    """An image as the model takes it; where `region` of the image's mask comes from in it; and the mask's height and width."""

    pixels: Image
    fit: Fit
    region: Crop
    height: int
    width: int
    original: Image | None = None  # the region as it was; the CRF looks at it


@dataclass(frozen=True)
class Prediction:
    """`mask`: class indices HxW of the image's own size, uint8 (uint16 above 256 classes); `class_pixels`: how many of each.

    Of a model that was trained on a region of its images, the mask holds the ignore value outside of that.
    """

    mask: NDArray[np.uint8] | NDArray[np.uint16]
    class_pixels: NDArray[np.int64]
    mean_confidence: float  # largest softmax probability, averaged over the model's own grid (before upsampling)


def steps_left(model: DatasetSpec, data: DatasetSpec) -> tuple[Crop | None, Resize | None]:
    """What is still to be done to images so that they are as the model's training images were; tiles of such images are.

    `InputError` where the region that the model was trained on cannot be found in them any more.
    """
    if data.crop != model.crop and (data.crop is not None or data.resize is not None):
        raise InputError(
            f"the model was trained on {_region(model)}; the data are {_region(data)}{', resized' if data.resize else ''}; needed: the "
            "data as ingested, or preprocessed as those that the model was trained on"
        )
    return (None if data.crop else model.crop), (None if data.resize == model.resize else model.resize)


def _region(spec: DatasetSpec) -> str:
    return f"the region {spec.crop} of images" if spec.crop else "whole images"


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
        data: DatasetSpec | None = None,
        crf: Crf | None = None,
    ) -> None:
        """`class_map` renames or merges the model's classes; `threads` sets torch's threads for the whole process.

        `data` is the spec of the images: what preprocess did to them already is not done again.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; needed: at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        info = loaded.info
        self.batch_size = batch_size
        self._crf = crf
        self.classes: tuple[ClassSpec, ...] = mapped_classes(info.spec.classes, class_map or {})
        self._mapping = index_table(info.spec.classes, class_map or {}, self.classes)
        self._crop, self._resize = steps_left(info.spec, data) if data else (info.spec.crop, info.spec.resize)
        self._ignore_index = info.spec.ignore_index
        largest = max(len(self.classes) - 1, self._ignore_index if self._crop else 0)
        self._mask_type: Any = np.uint8 if largest <= 255 else np.uint16
        self._normalise = Normalise(info.mean, info.std, device)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        size = (info.spec.resize.fixed if info.spec.resize else None) or (64, 64)
        generator = torch.Generator().manual_seed(0)
        example_NHWC = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=generator)
        model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        folded, self.folded = fold_batch_norm(model, self._normalise(example_NHWC))
        if folded is loaded.model and self._dtype != torch.float32:
            folded = copy.deepcopy(folded)  # the loaded model stays as it is
        self._model = folded.to(dtype=self._dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def prepare(self, image: Image) -> Prepared:
        """Bring uint8 HxWx3 to the model's size. Safe in other threads; `predict_prepared` does the rest.

        `ShapeError` where the region that the model was trained on reaches over the image's edge.
        """
        height, width = image.shape[:2]
        region = self._crop or Crop(height=height, width=width)
        if region.top + region.height > height or region.left + region.width > width:
            raise ShapeError(f"the image is {height}x{width}; the model was trained on the region {region}, which reaches over the edge")
        fit = plan_fit(region.height, region.width, self._resize)
        fill = self._resize.fill if self._resize else MEAN_COLOR
        original = image[region.inside]
        return Prepared(fit_image(original, fit, fill), fit, region, height, width, original if self._crf else None)

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
        logits_CHW = logits_CHW[:, *image.fit.inside]  # without the padding
        largest = logits_CHW.amax(dim=0)
        confidence = torch.exp(largest - torch.logsumexp(logits_CHW, dim=0)).mean()
        labels = self._labels(logits_CHW, image).cpu().numpy()
        mask = self._mapping.astype(self._mask_type)[labels]
        class_pixels = np.bincount(mask.reshape(-1), minlength=len(self.classes)).astype(np.int64)
        if mask.shape != (image.height, image.width):
            mask = pad_mask(mask, (image.height, image.width), (image.region.top, image.region.left), self._ignore_index)
        return Prediction(mask, class_pixels, float(confidence))

    def _labels(self, logits_CHW: Tensor, image: Prepared) -> Tensor:
        """Class indices of the model, at the region's own size."""
        height, width = image.region.height, image.region.width
        if self._crf is None:
            return largest_class(logits_CHW, height, width)
        assert image.original is not None
        pixels_1HWC = torch.from_numpy(np.ascontiguousarray(image.original)[None])
        return refine(resize(logits_CHW[None], (height, width)), pixels_1HWC, self._crf)[0].argmax(0)
