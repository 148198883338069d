"""With Ray and Prefect uninstalled, the local engine trains and infers from the command line, to the same masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages import world

BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "prefect", "prefect_ray"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def segtasks(folder: Path, *arguments: str, expect: int = 0) -> dict[str, object]:
    """Run the command line in an interpreter (and children) where ray and prefect cannot be imported."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/sitecustomize.py").write_text(BLOCK)
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), root])}
    command = [sys.executable, "-m", "segtasks.cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == expect, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_train_and_infer_run_locally_without_ray_and_prefect(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 24)
    data, model = str(tmp_path / "data"), str(tmp_path / "model")
    local = ["--engine", "local", "--workers", "2"]
    segtasks(tmp_path, "ingest", "--source", str(tmp_path / "source"), "--format", "folder", "--output", data, *local)
    segtasks(
        tmp_path, "train", "--data", data, "--output", model, *local, "model={name: unet, options: {width: 4, depth: 2}}", "epochs=1",
        "val_split=null", "batch_size=4",
    )  # fmt: skip
    segtasks(tmp_path, "infer", "--data", data, "--checkpoint", model, "--output", str(tmp_path / "out"), *local)
    error = segtasks(tmp_path, "infer", "--data", data, "--checkpoint", model, "--output", str(tmp_path / "x"), "--engine", "ray", expect=2)
    assert "engine ray needs Ray" in str(error["error"])
    world.run_infer(data, Path(model), tmp_path / "inline")
    assert world.content(tmp_path / "out") == world.content(tmp_path / "inline")
