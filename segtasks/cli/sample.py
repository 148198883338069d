"""`segtasks sample`: a small data set made on the spot."""

from __future__ import annotations

from typing import Any

import click

from segtasks.cli.outcome import Outcome
from segtasks.cli.settings import json_option


@click.command("sample", help="Make a small data set with masks and instances at URL: handwritten digits on photographs, by seed.")
@click.option("--output", metavar="URL", required=True, help="folder or URL that the images are written to")
@click.option("--seed", type=int, default=0, show_default=True, help="another seed makes other images")
@click.option("--train", type=click.IntRange(min=1), default=None, metavar="N", help="number of training images")
@click.option("--val", type=click.IntRange(min=1), default=None, metavar="N", help="number of validation images")
@json_option
def sample(output: str, seed: int, train: int | None, val: int | None, as_json: bool) -> Outcome:
    from segtasks.sample import write_sample
    from segtasks.storage import open_store

    sizes: dict[str, Any] = {key: value for key, value in (("train", train), ("val", val)) if value is not None}
    written = write_sample(open_store(output), seed=seed, **sizes)
    return Outcome({"output": output, "images": written}, [f"{written} images in {output}"])
