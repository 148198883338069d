"""Look at what is stored: `inspect`, `paths`, `verify`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segtasks.cli.outcome import Outcome, table
from segtasks.cli.scores import score_lines
from segtasks.cli.settings import json_option
from segtasks.config import load_yaml
from segtasks.errors import ConfigError
from segtasks.refs import Ref

if TYPE_CHECKING:
    from segtasks.shards import Snapshot
    from segtasks.storage import StorageOptions

storage_option = click.option("-c", "--config", "file", metavar="FILE", help="YAML file whose `storage` options are used")


@click.command("inspect", help="Counts, classes and provenance of the shard set or checkpoint at URL (a shard set with @n: snapshot n).")
@click.argument("url")
@click.option("--quarantine", is_flag=True, help="list the quarantined images with their reasons")
@click.option("--output", metavar="FILE", help="write a PNG contact sheet of the first images with their masks")
@storage_option
@json_option
def inspect(url: str, quarantine: bool, output: str | None, file: str | None, as_json: bool) -> Outcome:
    from segtasks.shards import open_snapshot
    from segtasks.shards.recipe import read_recipe
    from segtasks.storage import open_store

    storage = storage_of(file)
    recipe = read_recipe(open_store(Ref.parse(url).url, storage))
    if recipe is None or recipe.rows == "checkpoint/1":
        outcome = describe_checkpoint(url, storage)
        if quarantine or output:
            raise ConfigError(f"{url} is a checkpoint, so it has no rows for --quarantine or --output")
        return outcome
    snapshot = open_snapshot(url, storage)
    if quarantine:
        return quarantined_rows(snapshot)
    outcome = describe_snapshot(snapshot)
    if output:
        from segtasks.cli.sheet import write_sheet

        shown = write_sheet(snapshot, Path(output), storage)
        return Outcome({**outcome.document, "sheet": output}, [*outcome.lines, "", f"{shown} images in {output}"])
    return outcome


def describe_snapshot(snapshot: Snapshot) -> Outcome:
    file, counts = snapshot.file, snapshot.counts
    splits = split_table(snapshot)
    recipe = snapshot.recipe
    document = {
        "kind": recipe.rows,
        "ref": str(snapshot.ref),
        "name": snapshot.spec.name,
        "counts": counts.model_dump(),
        "errors": file.errors,
        "splits": splits,
        "classes": [item.model_dump(mode="json") for item in snapshot.spec.classes],
        "ignore_index": snapshot.spec.ignore_index,
        "made_by": recipe.model_dump(mode="json", exclude={"spec"}),
        "input": str(file.input) if file.input else file.source,
        "summary": file.summary,
        "created_at": file.created_at,
        "segtasks": file.segtasks,
    }
    classes = [[index, item.name, "#{:02x}{:02x}{:02x}".format(*item.color)] for index, item in enumerate(snapshot.spec.classes)]
    no_rows = f", {counts.empty:,} empty" if counts.empty else ""
    rows = f"{counts.rows:,} rows: {counts.done:,} done, {counts.quarantined:,} quarantined{no_rows}"
    lines = [
        f"{snapshot.ref}: {recipe.rows.partition('/')[0]} of {snapshot.spec.name!r}, made by segtasks {recipe.stage} {file.created_at}",
        f"{rows}; {counts.shards:,} shards, {counts.bytes:,} bytes",
        "",
        *table(([row["split"] or "(none)", row["done"], row["quarantined"], row["shards"]] for row in splits), SPLIT_HEADER),
        "",
        *(table(classes, ("index", "class", "colour")) or ["no classes"]),
        f"ignored value: {snapshot.spec.ignore_index}",
    ]
    if file.errors:
        lines += ["", "quarantined for " + ", ".join(f"{name} (in {number} shards)" for name, number in file.errors.items())]
    if "classes" in file.summary:
        lines += ["", *score_lines(file.summary)]
    lines += ["", "made from", *(f"  {row}" for row in provenance_rows(document))]
    return Outcome(document, lines)


SPLIT_HEADER = ("split", "done", "quarantined", "shards")


def split_table(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Live rows and shards by split."""
    from segtasks.shards.snapshot import deleted_facts
    from segtasks.shards.writer import OK, QUARANTINED

    totals: dict[str, Counter[str]] = {}
    for record in snapshot.shards():
        gone = deleted_facts(snapshot.store, snapshot.file.rows, record)[1]
        live = {"done": record.done - gone[OK], "quarantined": record.quarantined - gone[QUARANTINED]}
        totals.setdefault(record.split, Counter()).update(**live, shards=1)
    return [{"split": split, **{key: total[key] for key in SPLIT_HEADER[1:]}} for split, total in totals.items()]


def provenance_rows(document: dict[str, Any]) -> list[str]:
    made_by = document["made_by"]
    rows = {"input": document["input"], **made_by["inputs"], **made_by["resolved"], **made_by["config"], "segtasks": document["segtasks"]}
    return table([key, value if isinstance(value, (str, int, float)) else json.dumps(value)] for key, value in rows.items())


def quarantined_rows(snapshot: Snapshot) -> Outcome:
    rows = list(snapshot.quarantined())
    lines = table(([row["image_id"], row["error_type"], row["error"]] for row in rows), ("image", "error", "reason"))
    document = {"ref": str(snapshot.ref), "quarantined": rows}
    return Outcome(document, lines if rows else [f"nothing is quarantined in {snapshot.ref}"])


def describe_checkpoint(url: str, storage: StorageOptions) -> Outcome:
    from segtasks.training.loaded import find_checkpoint

    checkpoint = find_checkpoint(url, storage)
    info, commit = checkpoint.info(), checkpoint.commit
    document = {"kind": "checkpoint", "url": checkpoint.url, "step": commit.step, "final": commit.final, **info.model_dump(mode="json")}
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(info.spec.names))
    resize = info.spec.resize
    facts = {
        "model": json.dumps(info.model.model_dump(mode="json")),
        "classes": classes,
        "trained at": str(resize) if resize else "the images' own size",
        "epoch, step": f"{commit.epoch}, {commit.step}{'' if commit.final else ' (not finished)'}",
        "digest": info.digest,
        **{key: value for key, value in info.training.items() if isinstance(value, (str, int, float)) and key not in ("epoch", "step")},
        "segtasks": info.segtasks,
    }
    lines = [f"{checkpoint.url}: checkpoint", *table(facts.items())]
    if info.training.get("val"):
        lines += ["", f"validation after epoch {info.training['val_epoch']}:", *score_lines(info.training["val"])]
    return Outcome(document, lines)


@click.command("paths", help="Print the Parquet files of the shard set at URL, one a line, for any other tool.")
@click.argument("url")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="only the files of this split; may be repeated")
@storage_option
@json_option
def paths(url: str, splits: tuple[str, ...], file: str | None, as_json: bool) -> Outcome:
    from segtasks.shards import open_snapshot

    snapshot = open_snapshot(url, storage_of(file))
    records = snapshot.shards(splits or None)
    found = [snapshot.store.url_of(record.path) for record in records]
    deleted = {snapshot.store.url_of(record.path): list(record.deleted_rows) for record in records if record.deleted_rows}
    return Outcome({"ref": str(snapshot.ref), "paths": found, "deleted_rows": deleted}, found)


@click.command("verify", help="Read every shard of the shard set at URL, hash it again and prove that no image is missing. Exit 3 if not.")
@click.argument("url")
@storage_option
@json_option
def verify(url: str, file: str | None, as_json: bool) -> Outcome:
    from segtasks.shards import require_intact
    from segtasks.shards import verify as verify_shards

    report = verify_shards(url, storage_of(file))
    require_intact(report)
    line = f"{report.url}@{report.snapshot} holds: {report.shards:,} shards, {report.rows:,} rows, {report.bytes:,} bytes, ids {report.ids}"
    return Outcome(report.model_dump(mode="json"), [line])


def storage_of(file: str | None) -> StorageOptions:
    options = (load_yaml(file) if file else {}).get("storage") or {}
    if not isinstance(options, dict):
        raise ConfigError(f"storage in {file} is {options!r}; needed: a mapping from URL prefixes to options")
    return options
