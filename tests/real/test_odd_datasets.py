"""Every broken or look-alike data set, read as each format there is, and every odd image: done, refused with a reason, or exit 2. No crash,
no hang, and no more than a GiB."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from segtasks import plugins
from tests.real import data_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
seconds_a_case = 200  # on a busy machine; most take a twentieth of a second


def cases(root: Path) -> list[str]:
    """Folders down to the third level that have a file somewhere below."""
    folders = [root, *(path for depth in ("*", "*/*", "*/*/*") for path in sorted(root.glob(depth)) if path.is_dir())]
    return [str(path) for path in folders if any(file.is_file() for file in path.rglob("*"))]


def ingest_all(folder: str, listed: list[str], out: str) -> None:
    """In a process of its own: every folder of `listed` as every format; a line of JSON each."""
    import signal

    from segtasks.engines import open_engine
    from segtasks.errors import SegtasksError
    from segtasks.shards import open_snapshot
    from tests.stages.world import inline, run_ingest

    with open(out, "w") as lines:
        for number, source in enumerate(listed):
            for reader in plugins.names("readers"):
                output = f"{folder}/{number}-{reader}"
                signal.alarm(seconds_a_case)
                found: dict[str, Any] = {"source": source, "reader": reader}
                try:
                    result = run_ingest(source, output, open_engine(inline), format=reader)
                    refused = [row["error"] for row in open_snapshot(output).quarantined()] if result.counts["quarantined"] else []
                    found |= {"done": result.counts["done"], "refused": refused}
                except SegtasksError as error:
                    found |= {"exit": error.exit_code, "error": str(error)}
                signal.alarm(0)
                print(json.dumps(found), file=lines, flush=True)
        peak = re.search(
            r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()
        )  # ru_maxrss would count what pytest had before the exec
        assert peak
        print(json.dumps({"kib": int(peak[1])}), file=lines)


def run(folder: Path, listed: list[str]) -> tuple[list[dict[str, Any]], float]:
    """What came of each case, and the most memory that was taken, in GiB."""
    code = f"from tests.real.test_odd_datasets import ingest_all; ingest_all({str(folder)!r}, {listed!r}, {str(folder / 'out.txt')!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=800)
    lines = (folder / "out.txt").read_text().splitlines()
    assert done.returncode == 0, f"after {lines[-1:]}:\n{done.stderr[-3000:]}"
    rows = [json.loads(line) for line in lines]
    return rows[:-1], rows[-1]["kib"] / (1 << 20)


def test_every_odd_data_set_is_read_or_refused_in_words(tmp_path: Path) -> None:
    root = data_folder("odd_datasets")
    rows, gib = run(tmp_path, cases(root))
    assert len(rows) == len(cases(root)) * len(plugins.names("readers"))
    assert gib < 1
    for row in rows:
        if "exit" in row:
            assert row["exit"] == 2, row
            assert len(row["error"]) > 20, row
        assert all(len(reason) > 10 for reason in row.get("refused", ())), row
    print(Counter("read" if row.get("done") else "refused" if "done" in row else "exit 2" for row in rows), f"{gib:.2f} GiB")


def test_every_odd_image_is_done_or_quarantined_with_a_reason(tmp_path: Path) -> None:
    root = data_folder("odd_images")
    rows, gib = run(tmp_path, [str(root)])
    (images,) = (row for row in rows if row["reader"] == "images")
    assert gib < 1
    assert images["done"] > 300
    assert len(images["refused"]) > 50
    assert all(len(reason) > 10 for reason in images["refused"])
