"""One self-contained HTML page: no script, no external load (a content security policy says so), every string escaped."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from segtasks import __version__
from segtasks.codecs.image import encode_jpeg
from segtasks.metrics.confusion import Result
from segtasks.reporting.charts import line_chart
from segtasks.reporting.data import Example, Pixels, ReportData
from segtasks.reporting.overlay import panels
from segtasks.reporting.sheet import classes_in
from segtasks.spec import DatasetSpec

MATRIX_CLASSES = 32  # more columns than these cannot be read
NUMBERED = 20  # classes up to which cells show decimals
CONFUSIONS = 6


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: share of the row, from 0 to 1, and pixels."""

    share: float
    pixels: int
    text: str
    right: bool


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix as shown: rows normalised over all predictions, the columns that were left out included."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...] | None, ...]  # none: the class is not in the truth
    left_out: int


@dataclass(frozen=True)
class Confusion:
    """One pair of classes that are taken for each other."""

    truth: str
    predicted: str
    share: float
    pixels: int


@dataclass(frozen=True)
class Card:
    """One example with its pictures as data URIs."""

    image_id: str
    miou: float | None
    pictures: tuple[tuple[str, str], ...]


def render_report(data: ReportData, *, longest: int = 400, quality: int = 82) -> str:
    """The whole page. Example pictures are JPEGs of `longest` pixels on the longer side."""
    values = [(row.epoch, row) for row in data.history]
    charts = [
        line_chart("Training loss", [(epoch, row.loss) for epoch, row in values], zero=True),
        line_chart("Validation mIoU", [(epoch, row.val_miou) for epoch, row in values], zero=True, bridge=True),
        line_chart("Learning rate", [(epoch, row.lr) for epoch, row in values], zero=True),
    ]
    html = _template().render(
        data=data,
        metrics=data.metrics,
        version=__version__,
        classes=list(zip(data.spec.classes, data.metrics.classes, strict=True)),
        pixels=max(1, data.metrics.valid_pixels),
        charts=[chart for chart in charts if chart is not None],
        matrix=confusion_table(data.metrics),
        confusions=top_confusions(data.metrics, CONFUSIONS),
        shown=classes_in((mask for one in [*data.worst, *data.best] for mask in (one.truth, one.prediction)), data.spec),
        examples=[
            (heading, [_card(example, data.spec, longest, quality) for example in examples])
            for heading, examples in (("Worst images", data.worst), ("Best images", data.best))
            if examples
        ],
    )
    # names of files may hold bytes that are no UTF-8 (surrogates), which no file could be written with
    return html.encode("utf-8", "backslashreplace").decode()


def confusion_table(metrics: Result, limit: int = MATRIX_CLASSES) -> Matrix:
    """Rows and columns of the `limit` classes with the most true pixels, in index order; shares are of all the row's pixels."""
    names = [item.name for item in metrics.classes]
    largest = sorted(range(len(names)), key=lambda index: (-metrics.classes[index].truth, index))[:limit]
    shown = sorted(largest)
    columns = [*shown, len(names)] if metrics.unassigned_pixels else shown
    rows: list[tuple[Cell, ...] | None] = []
    for truth in shown:
        counts, total = metrics.confusion[truth], metrics.classes[truth].truth
        rows.append(
            tuple(
                Cell(counts[column] / total, counts[column], _percent(counts[column] / total, len(columns)), column == truth)
                for column in columns
            )
            if total
            else None
        )
    labels = [*names, "no class"]
    return Matrix(
        names=tuple(names[index] for index in shown),
        columns=tuple(labels[index] for index in columns),
        rows=tuple(rows),
        left_out=len(names) - len(shown),
    )


def top_confusions(metrics: Result, count: int) -> list[Confusion]:
    """The wrong pairs that hold the largest shares of their true class."""
    names = [*(item.name for item in metrics.classes), "no class"]
    pairs = [
        Confusion(names[truth], names[predicted], pixels / metrics.classes[truth].truth, pixels)
        for truth, row in enumerate(metrics.confusion)
        for predicted, pixels in enumerate(row)
        if predicted != truth and pixels
    ]
    return sorted(pairs, key=lambda pair: (-pair.share, pair.truth, pair.predicted))[:count]


def data_uri(pixels: Pixels, quality: int = 82) -> str:
    """A JPEG of the pixels that can stand in an `src` attribute."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels, quality)).decode("ascii")


def _card(example: Example, spec: DatasetSpec, longest: int, quality: int) -> Card:
    pictures = panels(example.image, spec, example.truth, example.prediction, longest=longest)
    labels = ("image", "truth", "prediction", "errors")
    return Card(
        example.image_id, example.miou, tuple((label, data_uri(picture, quality)) for label, picture in zip(labels, pictures, strict=True))
    )


def _percent(share: float, columns: int) -> str:
    if share == 0:
        return ""
    if columns > NUMBERED:
        return f"{100 * share:.0f}" if share >= 0.005 else "·"
    return f"{100 * share:.1f}" if share >= 0.0005 else "·"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _size(count: float) -> str:
    """1234567 -> 1.23 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:g}"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtasks.reporting", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"score": _score, "amount": _size}
    environment.filters.update(filters)
    return environment.get_template("report.html.j2")
