"""Two hundred photographs and twenty files of decoders' own test suites that cannot be decoded, through the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.real import data_folder


def liar() -> bytes:
    """A JPEG of some hundred bytes whose header claims 65500x65500; libjpeg-turbo would take 12 GB to find out."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    height = data.index(b"\xff\xc0") + 5
    data[height : height + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def segtasks(*arguments: str, expect: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "segtasks.cli", *arguments, "--json"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == expect, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """`images/` with 200 CamVid photographs and 20 undecodable files, the lying JPEG among them."""
    photographs, odd = data_folder("camvid") / "train", data_folder("odd_images")
    images = tmp_path / "source" / "images"
    images.mkdir(parents=True)
    for path in sorted(photographs.glob("*.jpg"))[:200]:
        shutil.copy(path, images)
    with (odd / "MANIFEST.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    broken = [row["path"] for row in rows if row["pillow13_result"].startswith(("LOAD", "OPEN")) and row["path"].endswith((".jpg", ".png"))]
    for number, path in enumerate(broken[:19], 1):
        shutil.copy(odd / path, images / f"odd{number:02d}-{Path(path).name}")
    (images / "odd00-liar.jpg").write_bytes(liar())
    return tmp_path / "source"


def test_the_bad_ones_are_refused_with_reasons_and_the_limit_is_kept(source: Path, tmp_path: Path) -> None:
    verb = ["ingest", "--source", str(source), "--format", "folder", "--engine", "local"]
    result = segtasks(*verb, "--output", str(tmp_path / "data"), expect=0)
    assert (result["counts"]["done"], result["counts"]["quarantined"]) == (200, 20)
    listed = segtasks("inspect", str(tmp_path / "data"), "--quarantine", expect=0)["quarantined"]
    reasons = {Path(row["image_id"]).name[:5]: row for row in listed}
    assert sorted(reasons) == [f"odd{number:02d}" for number in range(20)]
    assert reasons["odd00"]["error_type"] == "LimitError"
    assert "65500" in reasons["odd00"]["error"]
    assert all(row["error"] for row in listed)

    other = [*verb, "--output", str(tmp_path / "strict")]
    refused = segtasks(*other, "max_quarantined=0.05", expect=3)
    assert "max_quarantined allows 5.0%" in refused["error"]
    assert not (tmp_path / "strict/snapshots").exists()
    published = segtasks(*other, "max_quarantined=0.2", expect=0)
    assert (published["counts"]["done"], published["counts"]["quarantined"]) == (200, 20)
