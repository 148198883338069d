"""One image makes no row, one, forty or two thousand; killed between row groups, nothing is lost and nothing comes twice."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import faults
from segtasks.shards import open_snapshot, verify
from tests.stages import many, world

images = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    world.write_images(folder / "source", images)
    world.run_ingest(folder / "source", folder / "data", shard_rows=4)
    return folder / "data"


def rows(output: Path) -> dict[str, str]:
    """By id, the hash of the mask; an id that comes twice is an error."""
    snapshot = open_snapshot(str(output))
    found: dict[str, str] = {}
    for record in snapshot.shards():
        for row in snapshot.read(record, ["image_id", "mask"]).to_pylist():
            assert row["image_id"] not in found
            found[row["image_id"]] = hashlib.sha256(row["mask"]["bytes"]).hexdigest()
    return found


def require_all(output: Path, undisturbed: Path) -> None:
    assert rows(output) == rows(undisturbed)
    assert verify(str(output)).problems == ()


def test_every_image_is_counted_whatever_number_of_rows_it_makes(data: Path, tmp_path: Path) -> None:
    result = many.run_many(data, tmp_path / "out")
    each = images // len(many.MANY)
    done = each * sum(many.MANY)
    counts = {name: result.counts[name] for name in ("rows", "done", "quarantined", "empty", "inputs")}
    assert counts == {"rows": done + each, "done": done, "quarantined": 0, "empty": each, "inputs": images}
    made = Counter(image_id.rpartition("#")[0] for image_id in rows(tmp_path / "out"))
    assert Counter(made.values()) == {many: each for many in many.MANY if many}
    assert verify(str(tmp_path / "out")).problems == ()
    assert many.run_many(data, tmp_path / "out").already_done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_between_row_groups_it_ends_as_if_undisturbed(data: Path, tmp_path: Path) -> None:
    many.run_many(data, tmp_path / "undisturbed")
    output = tmp_path / "killed"
    for kill_at in (1, 3, 17, 20, 9):  # a shard has about sixteen row groups
        process = faults.start([str(data), str(output), str(kill_at)], tmp_path / "log.txt", run=many.main)
        assert faults.wait(process) == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
    many.run_many(data, output)
    require_all(output, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_between_row_groups_costs_nothing(data: Path, tmp_path: Path) -> None:
    many.run_many(data, tmp_path / "undisturbed")
    result = many.run_many(data, tmp_path / "out", workers=2, kill_at=5)
    assert (tmp_path / "out.killed").exists()
    assert result.counts["inputs"] == images
    require_all(tmp_path / "out", tmp_path / "undisturbed")
