"""`segtasks check URL`: a table of what is wrong with a data set; exit 3 where there is more of it than is allowed."""

from __future__ import annotations

import re
from typing import Any

import click

from segtasks.checks.config import Finding
from segtasks.checks.result import CheckReport
from segtasks.cli.outcome import Outcome, counted, table
from segtasks.cli.settings import WORDS, WithSettings, load, options
from segtasks.cli.stages import result_line, run
from segtasks.errors import TooManyFindings
from segtasks.stages.config import CheckConfig
from segtasks.stages.result import StageResult

named = 3  # findings that are shown of each kind
classes_shown = 25


@click.command(
    "check",
    cls=WithSettings,
    help="Say what is wrong with the samples at URL, or with --format the data set there in its own layout. "
    "Exit 3 when there is more of it than max_findings allows.",
)
@click.argument("url", required=False)
@options(CheckConfig)
def check(url: str | None, overrides: tuple[str, ...], file: str | None, as_json: bool, **given: Any) -> Outcome:
    if url is not None and re.match(r"[a-z_][a-z_.0-9]*=", url):  # a setting: the URL is in the file, or --data
        overrides, url = (url, *overrides), None
    if url is not None:
        given["data"] = url
    config = load(CheckConfig, file, given, overrides)
    try:
        result = run("check", config)
    except TooManyFindings as error:
        if not isinstance(error.result, StageResult):
            raise
        document = {**error.result.model_dump(mode="json"), "error": str(error), "type": type(error).__name__, "exit_code": error.exit_code}
        return Outcome(document, check_lines(error.result), error.exit_code)
    return Outcome(result.model_dump(mode="json"), check_lines(result))


assert isinstance(check, WithSettings)
check.model, check.shown_as_options = CheckConfig, (*WORDS, "dry_run", "engine.name", "engine.address", "engine.workers")


def check_lines(result: StageResult) -> list[str]:
    """The run, the findings, the classes by split, and the verdict last."""
    lines = [result_line(result)]
    if result.dry_run:
        return [*lines, *(f"  {row}" for row in table((key, value) for key, value in result.details.items() if key != "recipe"))]
    report = CheckReport.model_validate(result.details["check"])
    lines += ["", *finding_lines(report), "", *class_lines(report), *image_lines(report), ""]
    if report.over:
        kinds = ", ".join(one.kind for one in report.over)
        lines.append(f"NOT PASSED: more than allowed of {kinds} (max_findings.NAME=N allows N, none any number)")
    else:
        lines.append("passed" if any(one.count for one in report.found) else "passed, nothing was found")
    return [*lines, f"page: {result.details['page']}"]


def finding_lines(report: CheckReport) -> list[str]:
    """A line a kind that was found, then the first of each."""
    found = [one for one in report.found if one.count]
    if not found:
        return [f"nothing found in {counted(report.images, 'image')}"]
    rows = [[one.kind, one.count, "any" if one.allowed is None else one.allowed, "OVER" if one.over else "ok"] for one in found]
    lines = table(rows, ("finding", "found", "allowed", ""))
    for one in found:
        more = one.count - named
        reasons = ", ".join(f"{count:,} {error}" for error, count in report.refused.items()) if one.kind == "quarantined" else ""
        lines += ["", f"{one.kind}: {reasons}".rstrip()]
        lines += [f"  {_said(item)}" for item in one.findings[:named]]
        lines += [f"  ... {more:,} more"] if more > 0 else []
    return lines


def class_lines(report: CheckReport) -> list[str]:
    """Each class's share of pixels and of images, by split."""
    splits = [split for split in report.splits if split.labelled]
    if not report.classes or not splits:
        return []
    totals = {split.name: max(1, sum(item.pixels.get(split.name, 0) for item in report.classes)) for split in splits}
    most = set(sorted(range(len(report.classes)), key=lambda at: -sum(report.classes[at].pixels.values()))[:classes_shown])
    rows = []
    for item in (item for at, item in enumerate(report.classes) if at in most):
        pixels = [_percent(item.pixels.get(split.name, 0), totals[split.name]) for split in splits]
        images = [_percent(item.images.get(split.name, 0), split.labelled) for split in splits]
        rows.append([item.name, *(cell for pair in zip(pixels, images) for cell in pair)])
    header = ["class", *(cell for split in splits for cell in (f"{split.name or 'all'}: pixels %", "images %"))]
    left = len(report.classes) - len(most)
    return [*table(rows, header), *([f"... {left} more with fewer pixels"] if left else []), ""]


def image_lines(report: CheckReport) -> list[str]:
    """The splits, and the most frequent sizes and modes."""
    rows = [[split.name or "(none)", split.images, split.labelled, split.quarantined, split.near_duplicates] for split in report.splits]
    lines = table(rows, ("split", "images", "with truth", "refused", "look like another of the split"))
    for title, shares in (("sizes", report.sizes), ("stored", report.modes)):
        most = [f"{one.name} ({one.images:,})" for one in shares[:named]]
        lines.append(f"{title}: {', '.join(most)}{', ...' if len(shares) > named else ''}")
    return lines


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _said(item: Finding) -> str:
    others = f" [{', '.join(item.others)}]" if item.others else ""
    return ": ".join(part for part in (item.image_id, item.what) if part) + others
