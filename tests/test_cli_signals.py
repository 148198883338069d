"""A stopped command ends with the code of its signal, leaves nothing behind, and goes on from there when started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtasks.shards import open_snapshot
from tests.stages.world import write_images

READER = """
import time
from pathlib import Path
from segtasks.readers.folder import Config, build as build_folder

def build(config, source, spec=None):
    reader = build_folder(config, source, spec)
    read = reader.read
    def slow(item):
        if item.image_id.endswith("i0101.png") and not Path("go").exists():
            Path("waiting").touch()
            time.sleep(600)
        return read(item)
    reader.read = slow
    return reader
"""
INGEST = ["ingest", "--source", "images", "--format", "acme.slow", "--output", "out/data", "--engine", "local", "--workers", "1"]
PIPELINE = """
output: out
source: images
format: acme.slow
engine: {name: %s, workers: 1}
train: {epochs: 1, batch_size: 4, model: {name: unet, options: {width: 4, depth: 2}}}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "segtasks.cli", *arguments, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the command did not get that far"
        time.sleep(0.05)


def members_of(group: int) -> list[str]:
    """Command lines of the processes whose session the command leads; empty once all have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == group and fields[0] != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 3)
    write_images(tmp_path / "images", 3, split="val", start=100)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "slow.py").write_text(READER)
    return tmp_path


def stopped(folder: Path, number: int, *arguments: str) -> tuple[int, Any]:
    """Start the command, send the signal once an image is being read, and return its exit code and its document."""
    process = start(folder, *arguments)
    wait_for((folder / "waiting").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    deadline = time.monotonic() + 20
    while (left := members_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    return process.returncode, json.loads(out)


def goes_on(folder: Path, *arguments: str) -> Any:
    (folder / "go").touch()
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert open_snapshot(str(folder / "out" / "data")).counts.done == 6
    return json.loads(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_with_its_code_and_the_same_command_goes_on(number: int, code: int, folder: Path) -> None:
    ended, document = stopped(folder, number, *INGEST)
    assert (ended, document["exit_code"]) == (code, code)
    assert "the same command goes on from there" in document["error"]
    result = goes_on(folder, *INGEST)
    assert result["computed_shards"] == 1  # the other split's shard was committed before the signal
    assert result["counts"]["shards"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_signal_ends_a_pipeline_and_its_cluster_and_the_same_command_goes_on(engine: str, folder: Path) -> None:
    (folder / "run.yaml").write_text(PIPELINE % engine)
    ended, document = stopped(folder, signal.SIGTERM, "run", "run.yaml")
    assert (ended, document["exit_code"]) == (143, 143)
    results = goes_on(folder, "run", "run.yaml")
    assert results["ingest"]["computed_shards"] == 1
    assert results["evaluate"]["details"]["summary"]["images"] == 3


@pytest.mark.slow
def test_a_pipeline_needs_nothing_set_up_and_its_second_run_finds_everything_done(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 6)
    write_images(tmp_path / "images", 2, split="val", start=100)
    (tmp_path / "run.yaml").write_text(PIPELINE.replace("acme.slow", "folder") % "local")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "RAY")) and key != "DO_NOT_TRACK"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "segtasks.cli", "run", "run.yaml", *arguments]
        environment = {**kept, "HOME": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=True).stdout

    results = json.loads(run("--json"))
    assert [item["already_done"] for item in results.values()] == [False] * 6
    lines = run().splitlines()
    assert ["already done, " in line for line in lines[:6]] == [True] * 6
    assert f"mIoU            {results['evaluate']['details']['summary']['miou']:.4f}" in lines
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report' / 'report.html'}"
