"""One tiny trained model for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages import world


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.model(tmp_path_factory.mktemp("world"))
