from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segtasks.reporting.data import Epoch, Example, Fact, Quarantined, ReportData, StageCoverage
from segtasks.reporting.page import confusion_table, render_report, top_confusions
from tests.reporting.worlds import example, report, scored, spec_of

VOID = {"meta", "img"}
EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The page's tags, attributes and text; refuses tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def full() -> ReportData:
    return report(
        subtitle="made, val",
        created="2020-02-02",
        facts=(Fact("model", "unet"), Fact("weights", "ab12", code=True)),
        stages=(StageCoverage("ingest", "s3://bucket/data@1", "f" * 32, 10, 7, 3, {"DecodeError": 2, "LabelError": 1}),),
        history=tuple(Epoch(epoch, 1 / epoch, 0.001, epoch / 10) for epoch in range(1, 6)),
        best=(example("val/best.png"),),
        worst=(example("val/worst.png"),),
        quarantined=(Quarantined("ingest", "val/broken.png", "DecodeError", "cut off"),),
        quarantined_total=3,
    )


def test_the_page_shows_what_it_was_given():
    words = Page(render_report(full())).words
    for shown in (
        "A report", "made, val · 2020-02-02", "Mean IoU 0.583", "Pixel accuracy 0.750", "Mean Dice 0.733", "Images scored 1 3 quarantined",
        "model unet", "weights ab12", "s3://bucket/data@1", "DecodeError 2", "LabelError 1", "val/best.png", "val/worst.png",
        "val/broken.png", "DecodeError cut off", "The first 1 of 3 rows", "Training loss last 0.2", "Validation mIoU last 0.5",
        "road taken for sky", "33.3 %",
    ):  # fmt: skip
        assert shown in words, shown


def test_the_policy_stands_beside_the_numbers():
    data = full()
    assert f"How this is counted. {data.metrics.policy}" in Page(render_report(data)).words


def test_the_page_loads_nothing_and_runs_nothing():
    page = Page(render_report(full()))
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name == "src":
            assert value.startswith("data:image/jpeg;base64,")
        if name == "href":
            assert value.startswith("#")
        if name == "style":
            assert "url(" not in value
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert not re.search(r"url\(|@import", render_report(full()))


def test_links_of_the_menu_lead_somewhere():
    page = Page(render_report(full()))
    targets = {value[1:] for name, value in page.attributes if name == "href"}
    assert targets <= {value for name, value in page.attributes if name == "id"}


def test_every_string_is_escaped():
    spec = spec_of(EVIL, "sky")
    data = report(
        title=EVIL,
        subtitle=EVIL,
        created=EVIL,
        spec=spec,
        metrics=scored(spec, [[0, 1, 1, 1]], [[0, 0, 1, 255]], exclude=(EVIL,)),
        facts=(Fact(EVIL, EVIL, code=True),),
        stages=(StageCoverage(EVIL, EVIL, EVIL, 1, 0, 1, {EVIL: 1}),),
        best=(dataclasses.replace(example(EVIL)),),
        quarantined=(Quarantined(EVIL, EVIL, EVIL, EVIL),),
        quarantined_total=1,
    )
    page = Page(render_report(data))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name == "onerror"]
    assert page.words.count("<script>alert('x')</script>") > 10


def test_the_same_data_gives_the_same_page():
    assert render_report(full()) == render_report(full())


def test_without_a_date_the_page_names_none():
    assert not re.search(r"20\d\d-\d\d", re.sub(r"base64,[^\"]*", "", render_report(report())))


def test_what_is_missing_is_said():
    words = Page(render_report(report())).words
    for said in ("No training history", "No example images", "No provenance was given", "Nothing was refused", "none quarantined"):
        assert said in words, said


def test_pictures_are_jpegs_of_the_asked_size():
    page = Page(render_report(report(worst=(example(size=(300, 600)),)), longest=120))
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 4
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert (picture.format, picture.size) == ("JPEG", (120, 60))
    truth = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[1].partition(",")[2]))))
    assert truth[30, 20].tolist() == pytest.approx([128, 0, 0], abs=12)  # half of red over black
    assert truth[30, 100].tolist() == pytest.approx([0, 128, 0], abs=12)


def test_the_legend_shows_only_the_classes_in_the_pictures():
    spec = spec_of("road", "sky", "never drawn")
    page = Page(render_report(report(spec=spec, worst=(example(),))))
    legend = page.words.split("dark grey.")[1].split("Worst images")[0]
    assert legend.split() == ["road", "sky"]


def test_undefined_scores_are_dashes_and_excluded_classes_are_marked():
    spec = spec_of("road", "sky", "absent")
    words = Page(render_report(report(spec=spec, metrics=scored(spec, [[0, 1]], [[0, 1]], exclude=("sky",))))).words
    assert "absent absent – – – – 0.00 %" in words
    assert "sky not in the means" in words
    assert "over 1 of 3 classes" in words


def test_a_page_without_any_counted_pixel_is_made():
    spec = spec_of("road", "sky")
    words = Page(render_report(report(spec=spec, metrics=scored(spec, [[0, 1]], [[255, 255]])))).words
    assert "Mean IoU – over 0 of 2 classes" in words
    assert "not in the truth" in words


def test_rows_of_the_matrix_are_shares_of_the_truth():
    spec = spec_of("a", "b", "c")
    metrics = scored(spec, [[0, 0, 0, 1, 255, 1]], [[0, 0, 0, 0, 1, 1]])
    matrix = confusion_table(metrics)
    assert matrix.columns == ("a", "b", "c", "no class")
    assert [cell.share for cell in matrix.rows[0]] == [0.75, 0.25, 0, 0]
    assert [cell.text for cell in matrix.rows[1]] == ["", "50.0", "", "50.0"]
    assert [cell.right for cell in matrix.rows[1]] == [False, True, False, False]
    assert matrix.rows[2] is None
    assert matrix.left_out == 0


def test_a_matrix_of_many_classes_shows_the_most_frequent():
    spec = spec_of(*(f"c{index}" for index in range(60)))
    truth = np.concatenate([np.full(index + 1, index) for index in range(60)])[None]
    data = report(spec=spec, metrics=scored(spec, truth, truth))
    matrix = confusion_table(data.metrics)
    assert matrix.names == tuple(f"c{index}" for index in range(28, 60))
    assert matrix.left_out == 28
    assert "Shown are the 32 classes with the most pixels; 28 more" in Page(render_report(data)).words


def test_the_largest_confusions_are_by_share_of_the_true_class():
    spec = spec_of("a", "b")
    pairs = top_confusions(scored(spec, [[1, 0, 0, 0, 0, 0, 0, 1]], [[0, 0, 0, 0, 0, 1, 1, 1]]), 5)
    assert [(pair.truth, pair.predicted, pair.pixels) for pair in pairs] == [("b", "a", 2), ("a", "b", 1)]
    assert pairs[0].share == pytest.approx(2 / 3)


def test_names_that_are_no_unicode_can_be_written():
    html = render_report(report(quarantined=(Quarantined("ingest", "caf\udce9.png", "DecodeError", "x"),), quarantined_total=1))
    assert r"caf\udce9.png" in html
    html.encode("utf-8")


def test_the_history_of_training_becomes_epochs():
    row = {"epoch": 3, "step": 9, "loss": float("nan"), "lr": 0.1, "val": {"miou": 0.4}, "val_miou": 0.4}
    assert Epoch.from_json(row) == Epoch(epoch=3, loss=None, lr=0.1, val_miou=0.4)
    assert Epoch.from_json({"epoch": 1, "loss": 2}) == Epoch(epoch=1, loss=2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StageCoverage("infer", "u", "r", rows=10, done=8, quarantined=1), "8 done and 1 quarantined are not 10 rows"),
        (lambda: Example("a", None, np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)), "two H x W"),
        (lambda: report(quarantined=(Quarantined("s", "i", "t", "e"),)), "more than the total"),
        (lambda: report(metrics=scored(spec_of("a"), [[0]], [[0]])), "are not the metrics'"),
    ],
)
def test_data_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
