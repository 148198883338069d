"""One tiny trained model for all tests of this folder, and S3 servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3 import s3_bucket, s3_endpoint
from tests.servers.stores import moto, seaweed, seaweed_site
from tests.stages import world

__all__ = ["model", "moto", "s3_bucket", "s3_endpoint", "seaweed", "seaweed_site"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.model(tmp_path_factory.mktemp("world"))
