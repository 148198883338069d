"""What stands around a transformers model: segtasks' sizes, logits alone, and a mask model's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segtasks.models._base import Loss, Outputs, SegmentationModel
from segtasks.models._layers import pad_to_multiple, resize

QUERIES = ("class_queries_logits", "masks_queries_logits")  # of a decoder layer: (N, Q, num_classes + 1) and (N, Q, h, w)
TINY = torch.finfo(torch.float32).tiny


def config_of(net: nn.Module) -> Any:
    """The configuration that a transformers model carries."""
    return net.config


class SemanticModel(SegmentationModel):
    """A transformers model in `self.backbone`, its head included, with segtasks' sizes around it."""

    def __init__(self, net: nn.Module, size: int | None, multiple: int, objective: str) -> None:
        super().__init__()
        self.backbone = net
        self.kind: str = config_of(net).model_type
        self.size, self.multiple, self.objective = size, multiple, objective

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, C, H, W), any H, W >= 1 -> logits (N, num_classes, H, W), upsampled bilinearly from the model's own size."""
        return self._fit(self._run(image_NCHW).logits, image_NCHW)

    def backbone_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of any version of transformers under the names of this one, by its own loader; what does not fit keeps its name."""
        from transformers import utils

        logging: Any = utils.logging
        net: Any = self.backbone
        bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)
        try:
            with torch.random.fork_rng(devices=[]):  # it draws the weights that the file does not have
                loaded, found = type(net).from_pretrained(
                    None, config=net.config, state_dict=dict(tensors), ignore_mismatched_sizes=True, output_loading_info=True
                )
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
        other = {name: torch.empty(shape, device="meta") for name, shape, _ in found["mismatched_keys"]}
        absent = {*found["missing_keys"], *other}
        rest = {name: tensors[name] for name in found["unexpected_keys"] if name in tensors}
        return {**{name: tensor for name, tensor in loaded.state_dict().items() if name not in absent}, **other, **rest}

    def _run(self, image_NCHW: Tensor, **options: bool) -> Any:
        net: Any = self.backbone
        return net(self._fitted(image_NCHW), **options)

    def _fitted(self, image_NCHW: Tensor) -> Tensor:
        return resize(image_NCHW, (self.size, self.size)) if self.size else pad_to_multiple(image_NCHW, self.multiple)

    def _fit(self, result_NCHW: Tensor, image_NCHW: Tensor) -> Tensor:
        """Back to the image's size: what was padded is cropped away."""
        height, width = image_NCHW.shape[-2:]
        if self.size:
            return resize(result_NCHW, (height, width))
        padded = [side + -side % self.multiple for side in (height, width)]
        return resize(result_NCHW, padded)[:, :, :height, :width]


class MaskModel(SemanticModel):
    """A model of queries, each with a class and a mask."""

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """As `SemanticModel`; in training with `objective: masks` the queries' classes and masks of every decoder layer beside it."""
        own_loss = self.training and self.objective == "masks"
        options = {"output_auxiliary_logits": own_loss} if self.kind in ("mask2former", "maskformer") else {}
        found = self._run(image_NCHW, **options)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not own_loss):
            logits_NCHW = self._logits(found.class_queries_logits, found.masks_queries_logits, image_NCHW)
        if not own_loss:
            return logits_NCHW
        layers = [*(getattr(found, "auxiliary_logits", None) or ()), found]
        auxiliary = {f"{name}.{i}": layer[name] for i, layer in enumerate(layers) for name in QUERIES}
        return Outputs(logits_NCHW, auxiliary)

    def training_loss(self, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
        """The model's own loss, each class of an image being one mask. Ignored pixels belong to no mask, as in its image processor."""
        if isinstance(output, Tensor):
            return loss(output, target_NHW)
        count = len(output.auxiliary) // 2
        *inner, last = [{name: output.auxiliary[f"{name}.{i}"].float() for name in QUERIES} for i in range(count)]
        masks, classes = self._targets(target_NHW, last["class_queries_logits"].shape[2] - 1)
        net: Any = self.backbone
        with torch.autocast(target_NHW.device.type, enabled=False):
            terms = net.get_loss_dict(last["masks_queries_logits"], last["class_queries_logits"], masks, classes, inner or None)
            total: Tensor = net.get_loss(terms)
        return total

    def _logits(self, classes_NQK: Tensor, masks_NQhw: Tensor, image_NCHW: Tensor) -> Tensor:
        """log(sum over queries of P(class) x P(mask)), without the class of no object (the last), in float32 whatever autocast says."""
        first = self.kind != "maskformer"  # its processor enlarges the scores, the others' their masks
        with torch.autocast(image_NCHW.device.type, enabled=False):
            masks = masks_NQhw.float()
            masks = self._fit(masks, image_NCHW) if first and not self.training else masks
            scores = torch.einsum("nqk,nqhw->nkhw", classes_NQK.float().softmax(-1)[..., :-1], masks.sigmoid())
            scores = scores if first and not self.training else self._fit(scores, image_NCHW)
            return scores.clamp_min(TINY).log()

    def _targets(self, target_NHW: Tensor, num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image the masks (classes, h, w) of the classes that are in it, and those classes."""
        if self.size:
            size = (self.size, self.size)
            target_NHW = nn.functional.interpolate(target_NHW.unsqueeze(1).float(), size=size, mode="nearest-exact").squeeze(1).long()
        else:  # padding belongs to no mask
            height, width = target_NHW.shape[-2:]
            target_NHW = nn.functional.pad(target_NHW, (0, -width % self.multiple, 0, -height % self.multiple), value=-1)
        masks, classes = [], []
        for target_HW in target_NHW:
            present = target_HW.unique()
            present = present[(present >= 0) & (present < num_classes)]
            masks.append((target_HW == present[:, None, None]).float())
            classes.append(present)
        return masks, classes
