"""The stages on real stores, in bad weather, on a full disk: the rows are those of a quiet run on local files, or the run says why not."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from segtasks.engines import Engine, EngineConfig, open_engine
from segtasks.errors import IncompleteError, StorageError
from segtasks.shards import open_snapshot, verify
from segtasks.shards.records import read_record
from segtasks.storage import Store, open_store
from tests.servers.proxy import Fault, Proxy, some
from tests.servers.stores import Seaweed, Site, new_s3_bucket, s3_environment
from tests.stages import world

Storage = dict[str, dict[str, Any]]
IMAGES = 40
local = EngineConfig(name="local", workers=2)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def pipeline(source: str, output: str, engine: EngineConfig = local, storage: Storage | None = None) -> None:
    """Every stage that makes rows, and the training between them."""
    anywhere: Any = lambda name: f"{output}/{name}"  # noqa: E731
    more: dict[str, Any] = {"engine": engine, "storage": storage or {}}
    runner = open_engine(engine)
    try:
        world.run_ingest(source, anywhere("data"), runner, shard_rows=8, **more)
        world.run_preprocess(anywhere("data"), anywhere("prepared"), runner, resize={"height": 16, "width": 32}, **more)
        finish(output, runner, engine, storage or {})
    finally:
        runner.close()


def finish(output: str, runner: Engine, engine: EngineConfig, storage: Storage) -> None:
    """From the training on."""
    anywhere: Any = lambda name: f"{output}/{name}"  # noqa: E731
    more: dict[str, Any] = {"engine": engine, "storage": storage}
    world.run_train(anywhere("prepared"), anywhere("model"), runner, **more)
    world.run_infer(anywhere("data"), anywhere("model"), anywhere("predictions"), runner, **more)
    world.run_evaluate(anywhere("predictions"), anywhere("data"), anywhere("evaluation"), runner, **more)


def rows(url: str, storage: Storage | None = None) -> list[dict[str, Any]]:
    """Every row, but for where its source was and when that was written."""
    snapshot = open_snapshot(url, storage)
    found: list[dict[str, Any]] = []
    for record in snapshot.shards():
        found += snapshot.read(record, None, include_quarantined=True).to_pylist()
    return sorted(({k: v for k, v in row.items() if not k.startswith("source_")} for row in found), key=lambda row: str(row["image_id"]))


def same(ours: str, theirs: str, storage: Storage, sets: tuple[str, ...]) -> None:
    for name in sets:
        assert rows(f"{ours}/{name}", storage) == rows(f"{theirs}/{name}"), name
        assert verify(f"{ours}/{name}", storage).problems == ()


def same_pipeline(ours: str, quiet: Path, storage: Storage, folder: Path) -> None:
    """Shards are named by the source's versions, and training takes them in that order: so it is done again here, on copies."""
    same(ours, str(quiet), storage, ("data", "prepared"))
    for name in ("data", "prepared"):
        there = open_store(f"{ours}/{name}", storage)
        for entry in there.list():
            (folder / name / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / entry.path).write_bytes(there.read(entry.path))
    runner = open_engine(local)
    try:
        finish(str(folder), runner, local, {})
    finally:
        runner.close()
    same(ours, str(folder), storage, ("predictions", "evaluation"))


def upload(folder: Path, to: Store) -> None:
    for entry in open_store(str(folder)).list():
        assert to.create(entry.path, (folder / entry.path).read_bytes())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`source`, and every stage's output of a run on local files."""
    folder = tmp_path_factory.mktemp("quiet")
    world.write_images(folder / "source", IMAGES)
    (folder / "source/images/train/i0003.png").write_bytes(b"broken")
    pipeline(str(folder / "source"), str(folder))
    assert len(rows(f"{folder}/evaluation")) == IMAGES - 1
    return folder


def test_the_pipeline_from_and_to_seaweedfs_equals_local_files(quiet: Path, seaweed_site: Site, tmp_path: Path) -> None:
    upload(quiet / "source", open_store(f"{seaweed_site.url}/source", seaweed_site.storage))
    pipeline(f"{seaweed_site.url}/source", f"{seaweed_site.url}/out", storage=seaweed_site.storage)
    same_pipeline(f"{seaweed_site.url}/out", quiet, seaweed_site.storage, tmp_path)


def test_on_a_ray_cluster_that_knows_no_credentials_two_servers_are_reached_and_nothing_is_written_about_it(
    quiet: Path, seaweed: Seaweed, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source and output are on two servers, each with its endpoint; the output's keys exist in the driver only."""
    import ray
    from ray.cluster_utils import Cluster

    output, source = seaweed.new_bucket(), new_s3_bucket(moto, s3_environment())
    secret = output.environment["AWS_SECRET_ACCESS_KEY"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        output.use(monkeypatch)
        storage = {**source.storage, **output.storage}
        upload(quiet / "source", open_store(f"{source.url}/source", storage))
        pipeline(f"{source.url}/source", f"{output.url}/out", EngineConfig(name="ray", address=cluster.address), storage)
        same_pipeline(f"{output.url}/out", quiet, storage, tmp_path)
        session = Path(cluster.head_node.get_session_dir_path())
        files = [path for path in session.rglob("*") if path.is_file()]
        assert len(files) > 10
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
    finally:
        if ray.is_initialized():
            ray.shutdown()
        cluster.shutdown()


def test_each_prefix_has_its_own_server_in_every_worker(quiet: Path, s3_bucket: tuple[str, Storage], moto: str) -> None:
    output, source = s3_bucket[0], new_s3_bucket(moto, s3_environment())
    upload(quiet / "source", open_store(f"{source.url}/source", source.storage))
    engine = open_engine(local)
    try:
        storage = {**source.storage, output: s3_bucket[1]["s3://"]}
        world.run_ingest(f"{source.url}/source", f"{output}/data", engine, engine=local, storage=storage, shard_rows=8)
    finally:
        engine.close()
    same(output, str(quiet), storage, ("data",))


@pytest.fixture
def own_seaweed(tmp_path: Path) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path / "seaweed")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("stage", ["ingest", "infer"])
def test_a_store_that_is_killed_and_comes_back_changes_nothing(
    stage: str, own_seaweed: Seaweed, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = own_seaweed.new_bucket().use(monkeypatch)
    world.write_images(tmp_path / "source", 240)
    engine = open_engine(local)

    def ingest() -> None:
        world.run_ingest(tmp_path / "source", f"{site.url}/ingest", engine, engine=local, storage=site.storage, shard_rows=4)

    def infer() -> None:
        world.run_infer(f"{site.url}/ingest", model, f"{site.url}/infer", engine, engine=local, storage=site.storage)

    try:
        if stage == "infer":
            ingest()
        seen: list[int] = []

        def kill_in_the_middle() -> None:
            shards = open_store(f"{site.url}/{stage}/shards", site.storage)
            while not seen or seen[-1] < 5:
                seen.append(sum(1 for _ in shards.list()))
                time.sleep(0.02)
            own_seaweed.kill()
            own_seaweed.start()

        killer = threading.Thread(target=kill_in_the_middle, daemon=True)
        killer.start()
        ended_well = _until_done({"ingest": ingest, "infer": infer}[stage], tries=3)
        killer.join(60)
        # with the same engine: threads a process have a part in a float's last bit
        world.run_ingest(tmp_path / "source", tmp_path / "ingest", engine, engine=local, shard_rows=4)
        world.run_infer(tmp_path / "ingest", model, tmp_path / "infer", engine, engine=local)
    finally:
        engine.close()
    assert 5 <= seen[-1] < 60, "it was killed in the middle"
    assert ended_well
    same(site.url, str(tmp_path), site.storage, (stage,))


def _until_done(run: Callable[[], None], tries: int) -> bool:
    """Run again as the message says; any other error is one."""
    for _ in range(tries):
        try:
            run()
        except (StorageError, IncompleteError):
            continue
        return True
    return False


def test_a_twentieth_of_calls_failing_in_every_way_changes_nothing(
    quiet: Path, s3_bucket: tuple[str, Storage], s3_endpoint: str, tmp_path: Path
) -> None:
    bucket, direct = s3_bucket
    upload(quiet / "source", open_store(f"{bucket}/source", direct))
    with Proxy(s3_endpoint, some(0.05), seed=11).running() as proxy:
        storage = {"s3://": {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 2}}}
        pipeline(f"{bucket}/source", f"{bucket}/out", storage=storage)
    same_pipeline(f"{bucket}/out", quiet, direct, tmp_path)
    assert all(proxy.faults[fault] > 0 for fault in ("500", "503", "hang", "truncated", "lost", "lost 500")), proxy.faults
    twice = [path for path, times in proxy.created().items() if times > 1 and not path.endswith("latest")]
    assert twice == []


def cli(arguments: list[str], storage: Storage, folder: Path) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of the command line in a process of its own, with three local workers."""
    import yaml

    (folder / "settings.yaml").write_text(yaml.safe_dump({"storage": storage, "engine": {"name": "local", "workers": 3}}))
    started = time.monotonic()
    command = [
        shutil.which("segtasks", path=os.path.dirname(os.sys.executable)) or "segtasks",
        *arguments,
        "-c",
        str(folder / "settings.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    return done.returncode, done.stderr, time.monotonic() - started


def commands(bucket: str, model: Path) -> dict[str, list[str]]:
    return {
        "ingest": ["ingest", "--source", f"{bucket}/source", "--format", "folder", "--output", f"{bucket}/ingest", "shard_rows=8"],
        "infer": ["infer", "--data", f"{bucket}/data", "--checkpoint", str(model), "--output", f"{bucket}/infer"],
    }


@pytest.fixture
def filled(quiet: Path, s3_bucket: tuple[str, Storage]) -> tuple[str, Storage]:
    """A bucket with the source and its ingested shards."""
    bucket, storage = s3_bucket
    upload(quiet / "source", open_store(f"{bucket}/source", storage))
    world.run_ingest(f"{bucket}/source", f"{bucket}/data", storage=storage, shard_rows=8)
    return bucket, storage


@pytest.mark.parametrize("verb", ["ingest", "infer"])
def test_denied_reads_end_with_exit_2_and_commit_and_quarantine_nothing(
    verb: str, filled: tuple[str, Storage], s3_endpoint: str, tmp_path: Path, model: Path
) -> None:
    bucket, direct = filled
    what = {"ingest": "/source/images/", "infer": "/data/shards/"}[verb]

    def deny(method: str, path: str, draw: float) -> Fault:
        return "403" if method in ("GET", "HEAD") and what in path.split("?")[0] else "passed"

    with Proxy(s3_endpoint, deny).running() as proxy:
        code, error, seconds = cli(commands(bucket, model)[verb], {"s3://": {"endpoint_url": proxy.url}}, tmp_path)
    assert code == 2, error
    assert "access denied" in error
    assert "check the credentials in the environment and the bucket's policy" in error
    assert seconds < 90  # nothing is tried for minutes; the rest is start-up, on a machine that may be busy
    output = open_store(f"{bucket}/{verb}", direct)
    assert list(output.list("shards")) == []
    assert list(output.list("snapshots")) == []


def test_a_store_that_fails_from_the_start_ends_with_exit_1_and_the_same_command_resumes(
    filled: tuple[str, Storage], quiet: Path, s3_endpoint: str, tmp_path: Path, model: Path
) -> None:
    bucket, direct = filled
    with Proxy(s3_endpoint, some(1.0, ("500", "503", "lost", "truncated"))).running() as proxy:
        code, error, seconds = cli(commands(bucket, model)["ingest"], {"s3://": {"endpoint_url": proxy.url}}, tmp_path)
    assert code == 1, error
    assert "run again, finished shards are kept" in error
    assert seconds < 60 + 60
    assert cli(commands(bucket, model)["ingest"], direct, tmp_path)[0] == 0
    assert rows(f"{bucket}/ingest", direct) == rows(f"{quiet}/data")


def test_a_store_that_fails_for_good_in_the_middle_ends_the_run_in_minutes_and_the_same_command_resumes(
    filled: tuple[str, Storage], quiet: Path, s3_endpoint: str, tmp_path: Path, model: Path
) -> None:
    bucket, direct = filled
    broken, shards = threading.Event(), itertools.count(1)

    def choose(method: str, path: str, draw: float) -> Fault:
        if method == "PUT" and "/shards/" in path and next(shards) == 2:
            broken.set()
        return "503" if broken.is_set() else "passed"

    with Proxy(s3_endpoint, choose, seed=2).running() as proxy:
        code, error, seconds = cli(commands(bucket, model)["ingest"], {"s3://": {"endpoint_url": proxy.url}}, tmp_path)
    assert code == 1, error
    assert "run again, finished shards are kept" in error
    assert seconds < 60 + 120
    assert cli(commands(bucket, model)["ingest"], direct, tmp_path)[0] == 0
    assert rows(f"{bucket}/ingest", direct) == rows(f"{quiet}/data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 640 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640k", "none", str(folder)], capture_output=True, text=True, check=False)
    if mount.returncode != 0:
        pytest.skip("no small disk: mounting one needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_once_there_is_space_the_same_run_completes(small_disk: Path, tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 64, size=(80, 80))
    engine: Engine = open_engine(local)

    def run() -> None:
        world.run_ingest(tmp_path / "source", small_disk / "data", engine, engine=local, shard_rows=4)

    try:
        with pytest.raises(StorageError, match=r"no space left .* free space and run again"):
            run()
        store = open_store(str(small_disk / "data"))
        made = list(store.list("shards"))
        assert 0 < len(made) < 16
        for entry in made:
            assert read_record(store, entry.path, entry.size).inputs == 4
        assert list(store.list("snapshots")) == []
        assert list(store.leftovers()) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        run()
    finally:
        engine.close()
    world.run_ingest(tmp_path / "source", tmp_path / "data", shard_rows=4)
    same(str(small_disk), str(tmp_path), {}, ("data",))
