"""Images a second of `ingest` against the ways that people write it by hand: `python benchmarks/ingest.py --camvid FOLDER`.

The source is CamVid (JPEG 480x360 and label PNGs) under other names as often as it takes. Every way reads image and mask, decodes both,
checks the mask's size and values, and writes JPEG bytes and a PNG mask to Parquet, with two workers:

- local, ray: `ingest` on our engines.
- plain: two processes, each a loop over its half with our codecs, a Parquet file a thousand images; nothing is planned or proven.
- ray_data: `ray.data.read_images`, `map`, `write_parquet`, as its documentation writes it.
- datasets: Hugging Face `datasets`, `cast_column(Image())`, `map(num_proc=2)`, `to_parquet`.

Each is run in a process of its own with a small and a large number of images, in turn: what the difference of images takes is steady
state, and what is left of the small run is start-up. Ratios are medians over rounds of rates in the same round.
Expected before: 0.9 of plain (its loop is ours without hashing, and one fsync a shard), 1.5 times Ray Data and datasets (Pillow, and
pixels through an object store or an Arrow cache). Found: results/ingest.md.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = 2
CLASSES = 12  # CamVid's label values
Pair = tuple[str, str]


def make_source(camvid: Path, folder: Path, count: int) -> None:
    """`train/0001TP_n.jpg` and its label, `count` of them, hard links to CamVid's own."""
    images = sorted((camvid / "train").glob("*.jpg"))
    for name in ("train", "trainannot"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image = images[number % len(images)]
        _link(image, folder / "train" / f"v{number // 100:04d}_{number:06d}.jpg")
        _link(camvid / "trainannot" / f"{image.stem}.png", folder / "trainannot" / f"v{number // 100:04d}_{number:06d}.png")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def pairs(source: Path) -> list[Pair]:
    return [(str(image), str(source / "trainannot" / f"{image.stem}.png")) for image in sorted((source / "train").glob("*.jpg"))]


def ours(source: Path, output: Path, engine: str) -> None:
    from segtasks.engines import EngineConfig, open_engine
    from segtasks.stages.config import IngestConfig
    from segtasks.stages.ingest import ingest

    config = EngineConfig(name=engine, workers=WORKERS)  # type: ignore[arg-type]
    runner = open_engine(config)
    try:
        settings = {"source": str(source), "format": "camvid", "output": str(output), "engine": config}
        result = ingest(IngestConfig.model_validate(settings), runner)
        assert result.counts["quarantined"] == 0
    finally:
        runner.close()


def plain(source: Path, output: Path) -> None:
    output.mkdir()
    every = pairs(source)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_plain_half, args=(every[part::WORKERS], output, part)) for part in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _plain_half(mine: list[Pair], output: Path, part: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from segtasks.codecs.image import decode_image
    from segtasks.codecs.mask import decode_label, encode_mask
    from segtasks.spec import DecodePolicy

    policy, palette = DecodePolicy(), [(index, index, index) for index in range(256)]
    table = np.arange(256, dtype=np.uint8)
    table[CLASSES - 1] = 255
    for start in range(0, len(mine), 1000):
        rows = []
        for image, label in mine[start : start + 1000]:
            data = Path(image).read_bytes()
            decoded = decode_image(data, policy)
            mask = decode_label(Path(label).read_bytes(), policy.max_pixels)
            if mask.shape != (decoded.height, decoded.width) or mask.max() >= CLASSES:
                raise ValueError(label)
            rows.append({"image_id": image, "image": data, "mask": encode_mask(table[mask], palette), "height": decoded.height})
        pq.write_table(pa.Table.from_pylist(rows), output / f"{part}-{start}.parquet", compression="zstd", use_dictionary=False)


def ray_data(source: Path, output: Path) -> None:
    import ray
    from PIL import Image

    def with_mask(row: dict[str, Any]) -> dict[str, Any]:
        path = Path(row["path"])
        mask = np.array(Image.open(path.parent.parent / "trainannot" / f"{path.stem}.png"))
        if mask.shape != row["image"].shape[:2] or mask.max() >= CLASSES:
            raise ValueError(row["path"])
        file = io.BytesIO()
        Image.fromarray(np.where(mask == CLASSES - 1, 255, mask).astype(np.uint8)).save(file, "PNG", compress_level=1)
        return {"image_id": row["path"], "image": path.read_bytes(), "mask": file.getvalue(), "height": mask.shape[0]}

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.read_images(str(source / "train"), include_paths=True).map(with_mask).write_parquet(str(output))
    ray.shutdown()


def datasets(source: Path, output: Path) -> None:
    import datasets as hf
    from PIL import Image

    hf.disable_progress_bars()
    every = pairs(source)
    made = hf.Dataset.from_dict({"image": [image for image, _ in every], "mask": [label for _, label in every]})
    made = made.cast_column("image", hf.Image()).cast_column("mask", hf.Image())

    def check(row: dict[str, Any]) -> dict[str, Any]:
        mask = np.array(row["mask"])
        if mask.shape != np.array(row["image"]).shape[:2] or mask.max() >= CLASSES:
            raise ValueError("a mask does not fit")
        return {"height": mask.shape[0], "mask": Image.fromarray(np.where(mask == CLASSES - 1, 255, mask).astype(np.uint8))}

    made.map(check, num_proc=WORKERS).to_parquet(str(output))


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "local": lambda source, output: ours(source, output, "local"),
    "ray": lambda source, output: ours(source, output, "ray"),
    "plain": plain,
    "ray_data": ray_data,
    "datasets": datasets,
}


def timed(way: str, source: Path, folder: Path) -> float:
    """Seconds of one way over a source, in a process of its own."""
    output = folder / "output"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HOME": str(folder / "hf"), "DO_NOT_TRACK": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    begun = time.monotonic()
    command = [sys.executable, __file__, "--one", way, str(source), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    shutil.rmtree(folder / "hf", ignore_errors=True)
    (shutil.rmtree if output.is_dir() else os.unlink)(output)
    return seconds


def measure(camvid: Path, small: int, large: int, rounds: int, ways: list[str]) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {way: {"rate": [], "start": []} for way in ways}
    with tempfile.TemporaryDirectory(prefix="segtasks-ingest-", dir=camvid.parent if os.access(camvid.parent, os.W_OK) else None) as name:
        folder = Path(name)
        sources = {count: folder / f"source-{count}" for count in (small, large)}
        for count, source in sources.items():
            make_source(camvid, source, count)
        for number in range(rounds):
            for way in ways:
                seconds = {count: timed(way, source, folder) for count, source in sources.items()}
                rate = (large - small) / (seconds[large] - seconds[small])
                found[way]["rate"].append(rate)
                found[way]["start"].append(seconds[small] - small / rate)
                print(f"round {number + 1} {way:<9} {rate:7.0f} images/s, start-up {found[way]['start'][-1]:5.1f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--camvid", type=Path, help="CamVid in SegNet's layout: train/, trainannot/")
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--one", nargs=3, metavar=("WAY", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        WAYS[options.one[0]](Path(options.one[1]), Path(options.one[2]))
        return
    if options.camvid is None:
        parser.error("--camvid is needed")
    ways = options.ways.split(",")
    found = measure(options.camvid, options.small, options.large, options.rounds, ways)
    report: dict[str, Any] = {}
    for mine in ("local", "ray"):
        for rival in ("plain", "ray_data", "datasets"):
            if mine in found and rival in found:
                ratios = [ours / theirs for ours, theirs in zip(found[mine]["rate"], found[rival]["rate"], strict=True)]
                report[f"{mine}/{rival}"] = round(statistics.median(ratios), 2)
                print(f"{mine} over {rival}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
