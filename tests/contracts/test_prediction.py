"""Every model through the predictor: BatchNorm folded, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segtasks import plugins
from segtasks.config import Plugin
from segtasks.errors import MissingExtra
from segtasks.inference.predictor import Precision, Predictor
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.testing._base import small_config
from segtasks.training.checkpoint import ModelInfo
from segtasks.training.loaded import LoadedModel, build_model

CLASSES = tuple(ClassSpec(name=f"c{index}", color=(index, 0, 0)) for index in range(3))
agree = {"float32": 0.999, "bfloat16": 0.7}  # of pixels, of a model that has learned nothing: its logits are near each other


@pytest.mark.parametrize("name", plugins.names("models"))
def test_a_model_is_predicted_with_as_it_is_run(name: str) -> None:
    try:
        plugin = Plugin(name=name, options=small_config(plugins.load("models", name), None).model_dump(mode="json"))
        torch.manual_seed(0)
        model = build_model(plugin, 3)
    except MissingExtra as error:
        pytest.skip(f"{error}")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():  # moves running statistics off their initial values
        for _ in range(3):
            model.train()(torch.randn(4, 3, 64, 64, generator=random))
    info = ModelInfo(
        model=plugin, spec=DatasetSpec(name="m", classes=CLASSES), mean=(0.5,) * 3, std=(0.2,) * 3, weights=(), digest="", training={}
    )
    image = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    image_1CHW = ((torch.from_numpy(image) / 255 - 0.5) / 0.2).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = model.eval()(image_1CHW).argmax(1)[0].numpy()
    found = {}
    precision: Precision
    for precision in ("float32", "bfloat16"):
        predictor = Predictor(LoadedModel(model, info, "memory://m"), precision=precision)
        found[precision] = float((predictor.predict([image])[0].mask == expected).mean())
        assert predictor.folded > 0 or not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert {precision: share for precision, share in found.items() if share < agree[precision]} == {}
