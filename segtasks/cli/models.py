"""List the models with their size, work, paper and purpose, or print one's settings. Sizes are counted on shapes alone, without memory."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import click

from segtasks import plugins
from segtasks.cli.outcome import Outcome
from segtasks.cli.plugins import docstring, first_line, options
from segtasks.cli.settings import json_option
from segtasks.config import Plugin
from segtasks.errors import ConfigError, MissingExtra

CLASSES, SIDE = 19, 512
EXPLAINED = (
    f"M: million parameters, with heads that are there in training only. GFLOPs: for one {SIDE}x{SIDE} image and {CLASSES} classes, the "
    "convolutions' and products' multiplications and additions each counted (papers often count a pair of them once: half of this). "
    "Both with default options."
)


@click.command("models", help="List the models that ship with segtasks, or print the settings of NAME (a dotted name reaches outside).")
@click.argument("name", required=False)
@json_option
def models(name: str | None, as_json: bool) -> Outcome:
    return listing() if name is None else description(name)


@dataclass(frozen=True)
class Sheet:
    """What a docstring and a count say of a model."""

    name: str
    about: str
    paper: str | None
    purpose: str | None
    parameters: int | None
    flops: int | None
    missing: str | None  # why there are no numbers: an extra to install, an option to give

    @property
    def lines(self) -> tuple[str, ...]:
        purpose = re.split(r"(?<=\.) (?=[A-Z])", self.purpose)[0] if self.purpose else None
        return tuple(filter(None, (self.paper or self.about, purpose, self.missing)))


def listing() -> Outcome:
    sheets = [sheet(name, docstring(f"segtasks.models.{name}")) for name in plugins.names("models")]
    shared = {"image": [SIDE, SIDE], "classes": CLASSES, "explained": EXPLAINED}
    return Outcome({"models": [asdict(each) for each in sheets], **shared}, [*_rows(sheets), "", EXPLAINED])


def description(name: str) -> Outcome:
    module = plugins.load("models", name)
    found = sheet(name, module.__doc__ or "")
    document = {"kind": "models", **asdict(found), "image": [SIDE, SIDE], "classes": CLASSES, "schema": module.Config.model_json_schema()}
    numbers = f"{_millions(found)} million parameters, {_giga(found)} GFLOPs for one {SIDE}x{SIDE} image and {CLASSES} classes"
    said = [found.purpose, numbers if found.parameters is not None else None, found.missing]
    return Outcome(document, [f"{name}: {found.about}", *filter(None, said), "", *options(module.Config)])


def sheet(name: str, text: str) -> Sheet:
    """From `NAME (paper): what it is.` and the paragraph that starts with `For `."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    paper = re.match(r"[^(]*\((.+?)\): ", paragraphs[0])
    purpose = next((paragraph for paragraph in paragraphs[1:] if paragraph.startswith("For ")), None)
    parameters, flops, missing = count(name)
    return Sheet(name, first_line(text), paper[1] if paper else None, purpose, parameters, flops, missing)


def count(name: str) -> tuple[int | None, int | None, str | None]:
    """Parameters and FLOPs in eval mode with default options, or why they are not known."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segtasks.training.loaded import build_model

    try:
        model = build_model(Plugin(name=name), CLASSES, meta=True).eval()
    except MissingExtra as error:
        return None, None, str(error)
    except ConfigError as error:
        return None, None, f"Size and work depend on its options: {'; '.join(str(error).splitlines())}"
    except Exception as error:  # noqa: BLE001  somebody's own model; its options are shown all the same
        return None, None, f"Cannot be built on the meta device ({type(error).__name__}: {error})"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, SIDE, SIDE))
    except Exception as error:  # noqa: BLE001  as above: OpenCV reads pixels
        return parameters, None, f"Its work cannot be counted on the meta device ({type(error).__name__})"
    return parameters, counter.get_total_flops(), None


def _rows(sheets: list[Sheet]) -> list[str]:
    cells = [("model", "M", "GFLOPs"), *((each.name, _millions(each), _giga(each)) for each in sheets)]
    names, millions, giga = (max(len(row[column]) for row in cells) for column in range(3))
    lines = []
    for row, texts in zip(cells, [("paper; what it is for",), *(each.lines for each in sheets)], strict=True):
        head = f"{row[0]:<{names}}  {row[1]:>{millions}}  {row[2]:>{giga}}"
        lines += [f"{before}  {text}" for before, text in zip([head] + [" " * len(head)] * len(texts), texts, strict=False)]
    return lines


def _millions(sheet: Sheet) -> str:
    return "-" if sheet.parameters is None else f"{sheet.parameters / 1e6:.1f}"


def _giga(sheet: Sheet) -> str:
    return "-" if sheet.flops is None else f"{sheet.flops / 1e9:.0f}"
