"""The CRF on real photographs: a blurred prediction gets its boundaries back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.accuracy import boundary_f
from segtasks.inference.config import Crf
from segtasks.inference.crf import refine
from tests.real import data_folder

CLASSES, VOID = 11, 11


def test_a_blurred_prediction_on_camvid_gets_sharper_boundaries() -> None:
    """Classes known at every 16th pixel alone, as a network of output stride 16 has them, blurred to full size."""
    root = data_folder("camvid")
    scores = []
    for path in sorted((root / "val").glob("*.jpg"))[::50]:
        image = np.array(Image.open(path))
        truth = np.array(Image.open(root / "valannot" / f"{path.stem}.png"))
        coarse = torch.from_numpy(np.stack([(truth[8::16, 8::16] == index).astype(np.float32) for index in range(CLASSES)]))[None]
        logits_NCHW = torch.log(F.interpolate(coarse, size=truth.shape, mode="bilinear") + 1e-3)
        sharp = refine(logits_NCHW, torch.from_numpy(image)[None], Crf(bilateral_xy=30, bilateral_rgb=8, iterations=5))
        scores.append([boundary_f(found[0].argmax(0).numpy(), truth, CLASSES, VOID) for found in (logits_NCHW, sharp)])
    before, after = np.mean(scores, axis=0)
    print(f"boundary F within 2 pixels: {before:.3f} blurred, {after:.3f} after the CRF")
    assert after > before + 0.08
