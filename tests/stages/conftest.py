"""One tiny trained model for all tests of this folder, and an S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3 import s3_bucket, s3_endpoint
from tests.stages import world

__all__ = ["model", "s3_bucket", "s3_endpoint"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.model(tmp_path_factory.mktemp("world"))
