from __future__ import annotations

import sys

import pytest
import torch

from segtasks.errors import ConfigError, MissingExtra
from segtasks.models import smp


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'segtasks\[smp\]'"):
        smp.build(smp.Config(), 3)


def test_logits_are_the_librarys_own():
    library = pytest.importorskip("segmentation_models_pytorch", reason="needs the extra smp", exc_type=Exception)
    torch.manual_seed(0)
    ours = smp.build(smp.Config(**smp.SMALL), 3).eval()
    theirs = library.Unet("mobilenet_v2", encoder_weights=None, classes=3).eval()
    theirs.load_state_dict(ours.net.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(image), theirs(image))


def test_what_the_library_refuses_is_a_config_error():
    pytest.importorskip("segmentation_models_pytorch", reason="needs the extra smp", exc_type=Exception)
    for options in ({"arch": "unett"}, {"encoder": "resnet1"}, {"arguments": {"classes": 3}}):
        with pytest.raises(ConfigError):
            smp.build(smp.Config(**options), 3)
