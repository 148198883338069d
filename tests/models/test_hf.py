"""Models of transformers, small and made here: nothing is fetched."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError, InputError, MissingExtra
from segtasks.models import hf
from segtasks.models._base import Outputs
from segtasks.plugins import configure, resolved
from segtasks.testing import models as contract
from segtasks.training.loaded import build_model
from segtasks.training.pretrained import Pretrained, load_backbone, plan_pretrained

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
CONFIGS = {
    "segformer": hf.SMALL["config"],
    "upernet": {
        "model_type": "upernet",
        "hidden_size": 32,
        "backbone_config": {
            "model_type": "convnext",
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
    },
    "dpt": {
        "model_type": "dpt",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 64,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 32,
    },
    "mask2former": {
        "model_type": "mask2former",
        "feature_size": 64,
        "mask_feature_size": 64,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "dim_feedforward": 16,
        "encoder_layers": 1,
        "decoder_layers": 4,  # of which each but the last looks at one of three levels
        "num_attention_heads": 2,
        "num_queries": 8,
        "train_num_points": 64,
        "backbone_config": SWIN,
    },
    "maskformer": {
        "model_type": "maskformer",
        "fpn_feature_size": 64,
        "mask_feature_size": 64,
        "backbone_config": SWIN,
        "decoder_config": {
            "model_type": "detr",
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 8,
        },
    },
    "eomt": {
        "model_type": "eomt",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "num_blocks": 1,
        "num_queries": 8,
        "num_upscale_blocks": 2,
    },
}
MASKS = [name for name in CONFIGS if name in hf.MASK_MODELS]


def net(name, classes=5, **options):
    torch.manual_seed(0)
    return hf.build(hf.Config(config=CONFIGS[name], **options), classes)


def folder(path: Path, name="segformer", classes=7) -> Path:
    """A folder as save_pretrained makes it, under the names that files on the hub have."""
    torch.manual_seed(3)
    net(name, classes).backbone.save_pretrained(path)
    return path


def found(path: Path) -> Pretrained:
    return Pretrained(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.slow
@pytest.mark.parametrize("check", contract.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "segformer"])
def test_every_family_keeps_the_contract(name, check):
    if name in MASKS and check is contract.works_in_bfloat16_autocast:
        pytest.skip("before training, the scores of mask models are so near each other that bfloat16's three digits reorder them")
    if check is not contract.gradients_reach_every_parameter:
        check(hf, {"config": CONFIGS[name]})
        return
    model = net(name).train()
    target = torch.randint(0, 5, (2, 33, 47))
    model_loss = contract.training_loss(model, model(torch.randn(2, 3, 33, 47)), target, F.cross_entropy)
    model_loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert without == []  # what the logits do not depend on is frozen


@pytest.mark.parametrize("name", ["segformer", "upernet", "dpt"])
def test_logits_are_those_of_transformers_with_the_same_weights(name, tmp_path):
    path = folder(tmp_path / "model", name, classes=5)
    theirs = transformers.AutoModelForSemanticSegmentation.from_pretrained(path, local_files_only=True).eval()
    ours = build_model(Plugin(name="hf", options={"path": str(path)}), 5)
    load_backbone(ours, found(path / "model.safetensors"))
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = F.interpolate(theirs(image).logits, size=(64, 64), mode="bilinear", align_corners=False)
        assert (ours.eval()(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", MASKS)
def test_scores_are_those_of_the_image_processor(name, tmp_path):
    path = folder(tmp_path / "model", name, classes=5)
    theirs = transformers.AutoModelForUniversalSegmentation.from_pretrained(path, local_files_only=True).eval()
    ours = build_model(Plugin(name="hf", options={"path": str(path)}), 5)
    load_backbone(ours, found(path / "model.safetensors"))
    side = {"mask2former": 384, "eomt": 64}.get(name, 96)  # Mask2Former's processor works at 384x384
    image = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        output = theirs(image)
        masks = output.masks_queries_logits
        if name != "maskformer":
            masks = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)
        scores = torch.einsum("bqc,bqhw->bchw", output.class_queries_logits.softmax(-1)[..., :-1], masks.sigmoid())
        expected = F.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False)
        assert (ours.eval()(image).exp() - expected).abs().max() < 1e-5
        if name != "eomt":
            make = {"mask2former": "Mask2FormerImageProcessor", "maskformer": "MaskFormerImageProcessor"}[name]
            try:
                processor = getattr(transformers, make)()
            except ImportError as error:
                pytest.skip(f"the processor needs torchvision: {error}")
            (classes,) = processor.post_process_semantic_segmentation(output, target_sizes=[(side, side)])
            assert (ours(image)[0].argmax(0) == classes).float().mean() > 0.9999


@pytest.mark.parametrize("name", ["mask2former", "maskformer"])
def test_the_loss_of_a_mask_model_is_its_own(name):
    model = net(name).train()
    image, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    target[:, :20], target[1, 40:], target[:, :, 60:] = 2, 4, 255
    masks = [torch.stack([(each == value).float() for value in values]) for each, values in zip(target, [(0, 2), (0, 2, 4)])]
    classes = [torch.tensor([0, 2]), torch.tensor([0, 2, 4])]
    torch.manual_seed(1)
    expected = model.backbone(image, mask_labels=masks, class_labels=classes).loss
    torch.manual_seed(1)
    output = model(image)
    assert isinstance(output, Outputs)
    loss = model.training_loss(output, target, lambda *_: pytest.fail("the run's loss is not used"))
    torch.testing.assert_close(loss, expected.squeeze())


@pytest.mark.parametrize("name", MASKS)
def test_an_image_without_any_label_does_not_break_the_loss(name):
    model = net(name).train()
    target = torch.full((2, 33, 47), 255)
    target[0, :10] = 1
    loss = model.training_loss(model(torch.randn(2, 3, 33, 47)), target, F.cross_entropy)
    loss.backward()
    assert torch.isfinite(loss)


def test_a_mask_model_may_be_trained_by_the_loss_of_the_run():
    output = net("mask2former", objective="pixels").train()(torch.randn(1, 3, 33, 47))
    assert isinstance(output, torch.Tensor)
    assert output.requires_grad


def test_softmax_of_the_logits_gives_shares_of_the_score():
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        logits = net("mask2former").eval()(image)
    np.testing.assert_allclose(logits.softmax(1), logits.exp() / logits.exp().sum(1, keepdim=True), rtol=1e-5)


def test_the_configuration_is_recorded_and_the_folder_is_not(tmp_path):
    path = folder(tmp_path / "model")
    plugin = resolved("models", Plugin(name="hf", options={"path": str(path)}))
    assert plugin.options["path"] is None
    assert plugin.options["config"]["hidden_sizes"] == [8, 16, 24, 32]
    assert str(tmp_path) not in json.dumps(plugin.options)
    assert not {"id2label", "architectures", "dtype", "transformers_version"} & plugin.options["config"].keys()
    for file in path.iterdir():
        file.unlink()
    assert resolved("models", plugin) == plugin
    assert build_model(plugin, 4)(torch.randn(2, 3, 32, 32)).shape == (2, 4, 32, 32)


def test_weights_of_the_hubs_names_load_and_the_head_follows_the_classes(tmp_path):
    path = folder(tmp_path / "model", classes=7)
    file = path / "model.safetensors"
    plugin = Plugin(name="hf", options={"path": str(path)})
    planned = plan_pretrained(plugin, 4, str(file))
    assert planned.digest == found(file).digest
    model = build_model(plugin, 4)
    before = torch.get_rng_state()
    report = load_backbone(model, planned)
    assert torch.equal(torch.get_rng_state(), before)
    assert "122 tensors loaded" in report
    assert "decode_head.classifier.weight: 7x32x1x1 in the checkpoint, 4x32x1x1 here" in report
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(path, local_files_only=True).state_dict()
    ours = model.backbone.state_dict()
    assert [name for name in ours if ours[name].shape == theirs[name].shape and not torch.equal(ours[name], theirs[name])] == []


def test_weights_of_another_model_are_refused(tmp_path):
    path = folder(tmp_path / "model", "upernet")
    with pytest.raises(InputError, match="other weights than the model's backbone"):
        plan_pretrained(Plugin(name="hf", options=dict(hf.SMALL)), 4, str(path / "model.safetensors"))


def test_one_and_four_channels_are_taken_where_the_architecture_can():
    for channels in (1, 4):
        model = hf.build(hf.Config(config=CONFIGS["upernet"]), 2, channels).eval()
        assert model(torch.randn(1, channels, 40, 50)).shape == (1, 2, 40, 50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json; it holds other.txt"),
        ("{", "cannot be read as JSON"),
        ("[]", "names no model_type"),
        ('{"hidden_size": 3}', "names no model_type"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_what_is_needed(tmp_path, content, message):
    (tmp_path / "other.txt").write_text("")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        configure("models", Plugin(name="hf", options={"path": str(tmp_path)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs path: the local folder"),
        ({"path": "nvidia/segformer-b0"}, "no local folder"),
        ({"path": "https://huggingface.co/nvidia/mit-b0"}, "no local folder"),
        ({"config": {"model_type": "bert"}}, "'bert' is no model for segmentation"),
        ({"config": {"model_type": "beit"}}, "'beit' is no model for segmentation"),
        ({"config": {"model_type": "oneformer"}}, "'oneformer' is no model"),
        ({"config": {"model_type": "upernet", "backbone": "facebook/convnext"}}, "names the backbone 'facebook/convnext'"),
        ({"config": {"model_type": "segformer", "hidden_sizes": [3]}}, "cannot build this segformer"),
    ],
)
def test_what_cannot_be_built_is_a_config_error(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model(Plugin(name="hf", options=options), 3)


def test_path_and_another_config_are_not_given_together(tmp_path):
    path = folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="path and config disagree"):
        configure("models", Plugin(name="hf", options={"path": str(path), "config": {"model_type": "upernet"}}))


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.auto", None)
    with pytest.raises(MissingExtra, match=r"pip install 'segtasks\[hf\]'"):
        net("segformer")
