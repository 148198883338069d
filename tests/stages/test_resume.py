"""Exactly once: killed and started again, a stage ends with the rows of an undisturbed run and makes only missing shards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtasks.errors import RecipeMismatch
from segtasks.shards import open_snapshot, verify
from segtasks.storage import open_store
from tests.stages import world

ROOT = Path(__file__).parents[2]


def shard_files(url: Path) -> dict[str, int]:
    return {entry.path: os.stat(url / entry.path).st_ino for entry in open_store(str(url)).list("shards")}


def start_infer(data: Path, model: Path, output: Path, engine: str) -> subprocess.Popen[bytes]:
    code = f"""
from segtasks.engines import EngineConfig, open_engine
from tests.stages import world
if __name__ == "__main__":
    config = EngineConfig(name={engine!r}, workers=2)
    engine = open_engine(config)
    try:
        world.run_infer({str(data)!r}, {str(model)!r}, {str(output)!r}, engine, engine=config)
    finally:
        engine.close()
"""
    script = output.parent / "infer_script.py"
    script.write_text(code)
    return subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)


def kill_after(process: subprocess.Popen[bytes], output: Path, shards: int) -> None:
    """SIGKILL the driver and everything it started once so many shards are there; it must still be at work then."""
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline and len(shard_files(output)) < shards:
        time.sleep(0.01)
    assert process.poll() is None, f"it ended by itself, with exit code {process.returncode}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_infer_killed_at_five_moments_ends_as_if_undisturbed(tmp_path: Path, model: Path, engine: str) -> None:
    world.write_images(tmp_path / "source", 160)
    world.run_ingest(tmp_path / "source", tmp_path / "data", shard_rows=4)
    world.run_infer(tmp_path / "data", model, tmp_path / "undisturbed")
    output = tmp_path / "killed"
    seen: dict[str, int] = {}
    for shards in sorted(random.Random(7).sample(range(36), 5)):
        kill_after(start_infer(tmp_path / "data", model, output, engine), output, shards)
        now = shard_files(output)
        assert seen.items() <= now.items(), "a finished shard was written again"
        seen = now
    assert start_infer(tmp_path / "data", model, output, engine).wait(timeout=600) == 0
    assert seen.items() <= shard_files(output).items()
    assert world.content(output) == world.content(tmp_path / "undisturbed")
    assert verify(str(output)).problems == ()
    assert len(open_store(str(output)).read("recipe.json")) > 0


def test_a_finished_stage_does_nothing_again(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 20)
    first = world.run_ingest(tmp_path / "source", tmp_path / "data")
    again = world.run_ingest(tmp_path / "source", tmp_path / "data")
    assert (first.already_done, again.already_done, again.snapshot) == (False, True, 1)
    one, two = (world.run_infer(tmp_path / "data", model, tmp_path / "out") for _ in range(2))
    assert (one.computed_shards, two.computed_shards, two.snapshot) == (2, 0, 1)


def test_what_grew_and_what_changed_is_all_that_a_second_run_reads(tmp_path: Path, model: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    world.write_images(source, 20)
    world.run_ingest(source, data)
    world.run_infer(data, model, tmp_path / "out")
    before = shard_files(data)
    world.write_images(source, 3, start=100)
    world.write_images(source, 1, start=200)
    (source / "images/train/i0200.png").rename(source / "images/train/i0005.png")
    (source / "masks/train/i0200.png").rename(source / "masks/train/i0005.png")
    grown = world.run_ingest(source, data)
    assert (grown.snapshot, grown.computed_shards, grown.counts["rows"]) == (2, 1, 23)
    assert before.items() <= shard_files(data).items()
    followed = world.run_infer(data, model, tmp_path / "out")
    assert (followed.snapshot, followed.computed_shards, followed.counts["rows"]) == (2, 1, 23)
    world.run_ingest(source, tmp_path / "fresh-data")
    world.run_infer(tmp_path / "fresh-data", model, tmp_path / "fresh-out")
    assert world.content(tmp_path / "out") == world.content(tmp_path / "fresh-out")
    for url in (data, tmp_path / "out"):
        assert verify(str(url)).problems == ()


def test_another_model_or_output_setting_is_refused_and_another_batch_size_resumes(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 8)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    world.run_infer(tmp_path / "data", model, tmp_path / "out")
    assert world.run_infer(tmp_path / "data", model, tmp_path / "out", batch_size=1, threads=1).already_done
    with pytest.raises(RecipeMismatch, match=r"config\.limit: null -> 3"):
        world.run_infer(tmp_path / "data", model, tmp_path / "out", limit=3)
    world.run_train(tmp_path / "data", tmp_path / "other", seed=5)
    with pytest.raises(RecipeMismatch, match=r"resolved\.weights: "):
        world.run_infer(tmp_path / "data", tmp_path / "other", tmp_path / "out")
    assert open_snapshot(str(tmp_path / "out")).number == 1


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 20)
    planned = world.run_ingest(tmp_path / "source", tmp_path / "data", dry_run=True)
    assert (planned.details["inputs"], planned.details["shards_to_make"]) == (20, 2)
    assert not (tmp_path / "data").exists()
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    assert world.run_infer(tmp_path / "data", model, tmp_path / "out", dry_run=True).details["shards_to_make"] == 2
    assert not (tmp_path / "out").exists()
