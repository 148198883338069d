"""`segtasks models`: what each costs, where it is from, what it is for; and what is missing where that cannot be said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from segtasks import plugins
from segtasks.cli.models import EXPLAINED, count, description, listing, sheet
from segtasks.cli.plugins import docstring

TEXT = """Net (Doe (and Roe), "A title: (with) signs", CVPR 2020): three layers.

For tests,
and cheap. It has a second sentence.

Differs in nothing.
"""
HEAD = """from pydantic import Field
from torch import nn
from segtasks.config import Config as Base
from segtasks.errors import MissingExtra
"""
BUILD = "def build(config, num_classes, in_channels=3):\n    "


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Writes a plug-in module outside the package; gives its dotted name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = f"outside_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()

    def write(body: str, config: str = "class Config(Base):\n    'C'\n") -> str:
        (tmp_path / package / "net.py").write_text(f"{HEAD}{config}{BUILD}{body}\n")
        return f"{package}.net"

    return write


def test_the_docstring_gives_the_paper_and_the_purpose(outside) -> None:  # type: ignore[no-untyped-def]
    found = sheet(outside("return nn.Conv2d(in_channels, num_classes, 1)"), TEXT)
    assert found.paper == 'Doe (and Roe), "A title: (with) signs", CVPR 2020'
    assert found.purpose == "For tests, and cheap. It has a second sentence."
    assert found.lines == (found.paper, "For tests, and cheap.")


def test_parameters_and_flops_are_those_of_a_convolution(outside) -> None:  # type: ignore[no-untyped-def]
    name = outside("return nn.Conv2d(in_channels, num_classes, 3, padding=1)")
    assert count(name) == (19 * (27 + 1), 2 * 512 * 512 * 19 * 27, None)


@pytest.mark.parametrize(
    ("body", "config", "numbers", "missing"),
    [
        ("raise MissingExtra(\"x needs y: pip install 'segtasks[y]'\")", None, (None, None), "x needs y: pip install 'segtasks.y.'"),
        (
            "pass",
            "class Config(Base):\n    path: str = Field(description='folder')\n",
            (None, None),
            "depend on its options: .*path: missing",
        ),
        ("return 1 / 0", None, (None, None), "Cannot be built on the meta device .ZeroDivisionError"),
        (
            "class Net(nn.Conv2d):\n        def forward(self, x): return x.numpy()\n    return Net(3, 19, 1)",
            None,
            (19 * 4, None),
            "work cannot be counted",
        ),
    ],
    ids=["extra", "option", "broken", "pixels"],
)
def test_what_cannot_be_counted_is_said_and_the_options_are_shown(outside, body, config, numbers, missing) -> None:  # type: ignore[no-untyped-def]
    name = outside(body, *([config] if config else []))
    outcome = description(name)
    found = outcome.document
    assert (found["parameters"], found["flops"]) == numbers
    assert [line for line in outcome.lines if re.search(missing, line)] == [found["missing"]]
    assert ("option  " in "\n".join(outcome.lines)) == (config is not None)


def test_the_listing_has_a_row_a_model_and_says_what_is_counted() -> None:
    outcome = listing()
    models = outcome.document["models"]
    assert [item["name"] for item in models] == plugins.names("models")
    unet = next(item for item in models if item["name"] == "unet")
    assert unet["parameters"] == 1_812_323
    lines = list(outcome.lines)
    assert lines[0].split() == ["model", "M", "GFLOPs", "paper;", "what", "it", "is", "for"]
    assert next(line for line in lines if line.startswith("unet")).split()[:3] == ["unet", "1.8", "24"]
    assert lines[-1] == EXPLAINED
    assert "multiplications and additions each counted" in EXPLAINED
    json.dumps(outcome.document)


@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_says_what_it_is_for(name: str) -> None:
    paragraphs = docstring(f"segtasks.models.{name}").split("\n\n")
    assert "\n" not in paragraphs[0]
    assert paragraphs[0].endswith(".")
    assert paragraphs[1].startswith("For "), "the second paragraph says what the model is good for, and starts with `For `"


def test_flops_agree_with_a_count_by_hand_of_every_convolution() -> None:
    """The U-Net's convolutions, from their output sizes."""
    import torch

    from segtasks.models import unet

    with torch.device("meta"):
        net = unet.build(unet.Config(), 19).eval()
    total = 0

    def hook(layer: nn.Module, given: object, result: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += 2 * result.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(hook)
    net(torch.empty(1, 3, 512, 512, device="meta"))
    assert count("unet")[1] == total


def test_help_does_not_import_torch() -> None:
    for arguments in (["--help"], ["models", "--help"]):
        script = (
            f"import sys; from segtasks.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "Usage" in result.stdout
