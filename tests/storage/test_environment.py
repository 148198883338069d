"""Which of the driver's variables a worker elsewhere is given, and which of those it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segtasks.storage import _environment


def test_only_what_is_about_stores_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if _environment._ALLOWED.fullmatch(name):
            monkeypatch.delenv(name)
    ours = {"AWS_SECRET_ACCESS_KEY": "s", "AZURE_STORAGE_SAS_TOKEN": "t", "AZURE_CLIENT_SECRET": "c", "FSSPEC_S3_PROFILE": "lab"}
    others = {
        "PREFECT_API_KEY": "p",
        "DATABASE_PASSWORD": "d",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/here",
        "AZURE_DEVOPS_TOKEN": "z",
    }
    for name, value in {**ours, **others}.items():
        monkeypatch.setenv(name, value)
    assert _environment.credentials() == ours


def test_a_variable_that_names_a_file_is_taken_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "key.json"
    there.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/own")
    monkeypatch.setenv("AWS_PROFILE", "own")
    _environment.take({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "absent.json"), "AWS_PROFILE": "lab"})
    assert (os.environ["GOOGLE_APPLICATION_CREDENTIALS"], os.environ["AWS_PROFILE"]) == ("/own", "lab")
    _environment.take({"GOOGLE_APPLICATION_CREDENTIALS": str(there)})
    assert os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == str(there)
