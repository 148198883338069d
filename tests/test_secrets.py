"""Secrets planted wherever a user may put one are found nowhere afterwards: not in output, logs or results, in Prefect's database, in Ray's
session, or in any object of the store."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml

from segtasks.cli.entry import run
from segtasks.storage import open_store
from tests.s3 import s3_bucket, s3_endpoint
from tests.stages import world

__all__ = ["s3_bucket", "s3_endpoint"]  # fixtures

ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY")


def make_secret() -> str:
    """As cloud providers make them: with characters that mean something in URLs."""
    return f"planted{secrets.token_hex(8)}/{secrets.token_hex(4)}+{secrets.token_hex(4)}="


def forms(secret: str) -> set[bytes]:
    """The secret as it is, quoted for a URL, without what a URL would cut off, and inside base64 at any of its three places."""
    found = {secret.encode(), quote(secret).encode(), quote(secret, safe="").encode(), secret.split("/")[0].encode()}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * before + secret.encode())[4 if before else 0 : -4])
    return found


def leaks(data: bytes, planted: list[str]) -> list[str]:
    return [form.decode() for secret in planted for form in forms(secret) if form in data]


def in_files(folder: Path, planted: list[str]) -> list[str]:
    """Every file under a folder, Parquet files also as values."""
    found, files = [], 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            files += 1
            found += [f"{path}: {leak}" for leak in leaks(path.read_bytes(), planted)]
    assert files, f"nothing was looked at in {folder}"
    return found


def in_store(url: str, storage: Mapping[str, Mapping[str, Any]], planted: list[str]) -> list[str]:
    store, found, tables = open_store(url, storage), [], 0
    for entry in store.list():
        data = store.read(entry.path)
        if entry.path.endswith(".parquet"):
            tables += 1
            table = pq.read_table(io.BytesIO(data))
            data += repr((table.to_pydict(), table.schema.metadata)).encode()
        found += [f"{entry.path}: {leak}" for leak in leaks(data, planted)]
    assert tables, f"no table was looked at in {url}"
    return found


# Refused configurations: before anything is done, and without repeating the secret ----------------------------------------------------


def refused(secret: str) -> dict[str, list[str]]:
    """Arguments after `ingest` or `run FILE`, by what is wrong with them."""
    quoted = quote(secret, safe="")
    return {
        "password in a URL": [f"output=s3://user:{quoted}@bucket/out"],
        "password with a slash in a URL": [f"output=s3://user:{secret}@bucket/out"],
        "user alone": [f"output=s3://{quoted}@bucket/out"],
        "signed URL": [f"source=https://host/images?sig={quoted}"],
        "amazon's signed URL": [f"source=https://host/images?X-Amz-Signature={quoted}"],
        "option": [f"storage={{'s3://bucket': {{secret: '{secret}'}}}}"],
        "nested option": [f"storage={{'s3://bucket': {{client_kwargs: {{aws_secret_access_key: '{secret}'}}}}}}"],
        "option in a list": [f"storage={{'s3://bucket': {{profiles: [{{password: '{secret}'}}]}}}}"],
        "endpoint": [f"storage={{'s3://bucket': {{endpoint_url: 'http://user:{quoted}@host:9000'}}}}"],
        "prefix": [f"storage={{'s3://user:{quoted}@bucket': {{anon: true}}}}"],
        "option of another kind": [f"storage={{'s3://bucket': 'secret={secret}'}}"],
        "options of another kind": [f"storage={secret}"],
        "options that are a list": [f"storage=[{{secret: '{secret}'}}]"],
        "not YAML": [f"storage={{secret: '{secret}"],
        "beside another mistake": [f"storage={{'s3://bucket': {{secret: '{secret}'}}}}", "shard_rows=none", "engine=none"],
        "unknown setting": [f"aws_secret_access_key={secret}"],
        "key of the environment": [f"engine.env={{AWS_SECRET_ACCESS_KEY: '{secret}'}}"],
    }


@pytest.mark.parametrize("verb", ["ingest", "run"])
@pytest.mark.parametrize("case", refused("x"))
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(
    case: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"output": "out", "source": "in", "format": "folder", "engine": {"name": "local"}}))
    secret = make_secret()
    start = ["run", "run.yaml"] if verb == "run" else ["ingest", "-c", "run.yaml"]
    for more in ([], ["--json"]):
        assert run([*start, *refused(secret)[case], *more]) == 2
        captured = capfd.readouterr()
        assert "rror: " in captured.err
        assert leaks((captured.out + captured.err).encode(), [secret]) == []
        if more:
            assert json.loads(captured.out)["exit_code"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml"}  # Prefect was not even started


def test_a_secret_in_a_file_is_refused_with_the_same_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = make_secret()
    file = tmp_path / "settings.yaml"
    for text in (yaml.safe_dump({"storage": {"s3://b": {"key": secret}}}), f"storage: {{secret: '{secret}"):
        file.write_text(text)
        assert run(["inspect", "s3://bucket/data", "-c", str(file), "--json"]) == 2
        captured = capfd.readouterr()
        assert leaks((captured.out + captured.err).encode(), [secret]) == []


# Runs with the secrets in the environment ---------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Runs the command line in processes of its own, and remembers what they said."""

    folder: Path
    ray: Path
    environment: dict[str, str]
    planted: list[str]
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "segtasks.cli", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def leaks(self) -> list[str]:
        return [f"printed: {leak}" for text in self.said for leak in leaks(text.encode(), self.planted)] + in_files(
            self.folder, self.planted
        )


@pytest.fixture
def bench(tmp_path: Path, s3_bucket: tuple[str, dict[str, dict[str, Any]]]) -> Iterator[Bench]:
    planted = {name: make_secret() for name in ENVIRONMENT}
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "storage.yaml").write_text(yaml.safe_dump({"storage": s3_bucket[1]}))
    ray = Path(tempfile.mkdtemp(prefix="st-"))  # not tmp_path: Ray's sockets need short names
    environment = {
        **os.environ,
        **planted,
        "PREFECT_HOME": str(folder / "prefect"),
        "RAY_TMPDIR": str(ray),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    environment.pop("PREFECT_API_URL", None)
    yield Bench(folder, ray, environment, list(planted.values()))
    shutil.rmtree(ray, ignore_errors=True)


def upload(source: Path, url: str, storage: Mapping[str, Mapping[str, Any]]) -> None:
    remote = open_store(url, storage)
    for entry in open_store(str(source)).list():
        remote.create(entry.path, (source / entry.path).read_bytes())


def test_the_scan_finds_a_secret_in_each_of_its_forms(tmp_path: Path) -> None:
    secret = make_secret()
    for number, text in enumerate((secret, quote(secret, safe=""), base64.b64encode(f"key={secret};".encode()).decode())):
        (tmp_path / str(number)).write_text(f"...{text}...")
    assert {leak.split(": ")[0] for leak in in_files(tmp_path, [secret])} == {str(tmp_path / str(number)) for number in range(3)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stages_on_both_engines_leave_no_secret_whether_they_succeed_or_fail(
    bench: Bench, tmp_path: Path, s3_bucket: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    bucket, storage = s3_bucket
    world.write_images(tmp_path / "source", 16)
    (tmp_path / "source/images/train/i0003.png").write_bytes(b"broken")
    upload(tmp_path / "source", f"{bucket}/source", storage)
    model = str(world.model(tmp_path))
    ray, local = ["--engine", "ray", "--workers", "1", "--json"], ["--engine", "local", "--workers", "1", "--json"]
    data = ["-c", "storage.yaml", "--data", f"{bucket}/data", "--checkpoint", model]
    bench.run("ingest", "-c", "storage.yaml", "--source", f"{bucket}/source", "--format", "folder", "--output", f"{bucket}/data", *local)
    bench.run("infer", *data, "--output", f"{bucket}/out", *ray)
    bench.run("inspect", "-c", "storage.yaml", f"{bucket}/out", "--quarantine")
    # a shard whose bytes are gone fails in the workers, with tracebacks
    store = open_store(f"{bucket}/data", storage)
    shard = next(iter(store.list("shards")))
    kept = store.read(shard.path)
    store.delete(shard.path)
    store.create(shard.path, kept[: shard.size // 2] + bytes(shard.size - shard.size // 2))
    for engine in (ray, local):
        bench.run("infer", *data, "--output", f"{bucket}/broken-{engine[1]}", *engine, code=1)
    store.delete(shard.path)
    store.create(shard.path, kept)
    # no such bucket, and nobody who listens
    bench.run("ingest", "-c", "storage.yaml", "--source", "s3://no-such-bucket", "--format", "folder", "--output", "out", *local, code=2)
    (bench.folder / "nowhere.yaml").write_text(yaml.safe_dump({"storage": {"s3://": {"endpoint_url": "http://127.0.0.1:9"}}}))
    bench.run("ingest", "-c", "nowhere.yaml", "--source", "s3://bucket", "--format", "folder", "--output", "out", *local, code=1)
    assert bench.leaks() == []
    assert any(bench.ray.glob("ray/session_*/logs/worker-*")), "Ray's session is somewhere else"
    assert in_files(bench.ray, bench.planted) == []
    assert in_store(bucket, storage, bench.planted) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pipeline_leaves_no_secret_with_prefect_whether_it_succeeds_fails_or_is_refused(
    bench: Bench, tmp_path: Path, s3_bucket: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    bucket, storage = s3_bucket
    world.write_images(tmp_path / "source", 16)
    upload(tmp_path / "source", f"{bucket}/source", storage)
    settings = {
        "output": f"{bucket}/run",
        "source": f"{bucket}/source",
        "format": "folder",
        "engine": {"name": "local", "workers": 1},
        "storage": storage,
        "train": {"model": {"name": "unet", "options": {"width": 4, "depth": 2}}, "epochs": 1, "batch_size": 4, "val_split": None},
    }
    (bench.folder / "run.yaml").write_text(yaml.safe_dump(settings))
    bench.run("run", "run.yaml", "--json")
    bench.run("run", "run.yaml", "evaluate.min_miou=1.0", "--json", code=3)
    database = bench.folder / "prefect/prefect.db"
    assert b"flow_run" in database.read_bytes()
    in_configuration = make_secret()
    bench.planted.append(in_configuration)
    for number, override in enumerate(
        (f"storage={{'s3://': {{secret: '{in_configuration}'}}}}", f"output=s3://user:{quote(in_configuration, safe='')}@bucket/x")
    ):
        bench.run("run", "run.yaml", override, *(["--json"] if number else []), code=2)
    assert bench.leaks() == []
    assert in_store(bucket, storage, bench.planted) == []
