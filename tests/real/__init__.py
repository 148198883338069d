"""Tests on real data sets. They need a folder that is not part of the project and skip, saying so, where it is absent."""

import os
from pathlib import Path

import pytest


def data_folder(name: str) -> Path:
    """The folder of one real data set, or a skip that says what was looked for."""
    root = Path(os.environ.get("SEGTASKS_TEST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    folder = root / name
    if not folder.exists():
        pytest.skip(f"real data absent: {name} (set SEGTASKS_TEST_DATA to the folder that holds it)")
    return folder
