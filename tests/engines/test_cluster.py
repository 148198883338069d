"""Attached to a cluster of two nodes: the same rows, a lost node is survived, and a node with other code is refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

import segtasks
from segtasks.engines import Done, EngineConfig, Failed, open_engine
from segtasks.engines.ray.cluster import differences, facts
from segtasks.errors import ConfigError
from tests.engines.workers import Squares
from tests.stages import world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster() -> Iterator[Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_two_nodes_share_the_work_and_the_rows_are_those_of_one_process(cluster: Any, tmp_path: Path, model: Path) -> None:
    cluster.add_node(num_cpus=1)
    world.write_images(tmp_path / "source", 48)
    config = EngineConfig(name="ray", address=cluster.address)
    engine = open_engine(config)
    try:
        assert engine.workers == 2, "of three CPUs one stays free"
        world.run_ingest(tmp_path / "source", tmp_path / "data", engine, engine=config, shard_rows=4)
        world.run_infer(tmp_path / "data", model, tmp_path / "out", engine, engine=config)
    finally:
        engine.close()
    world.run_infer(tmp_path / "data", model, tmp_path / "alone")
    assert world.content(tmp_path / "out") == world.content(tmp_path / "alone")


def test_a_node_that_is_lost_costs_its_items_only(cluster: Any) -> None:
    lost = cluster.add_node(num_cpus=2)
    engine = open_engine(EngineConfig(name="ray", address=cluster.address, workers=3))
    try:
        outcomes = engine.map(Squares, [{"n": n, "do": "wait"} for n in range(60)])
        first = [next(outcomes) for _ in range(6)]
        cluster.remove_node(lost, allow_graceful=False)
        rest = list(outcomes)
    finally:
        engine.close()
    done = [outcome.item["n"] for outcome in (*first, *rest) if isinstance(outcome, Done)]
    failed = [outcome for outcome in (*first, *rest) if isinstance(outcome, Failed)]
    assert sorted(done + [outcome.item["n"] for outcome in failed]) == list(range(60))
    assert len(failed) <= 2
    assert all(outcome.how == "died" for outcome in failed)


def test_a_node_with_other_code_is_refused_before_any_work(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(segtasks.__file__).parent, other / "segtasks", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "segtasks/codecs/mask.py").write_text((other / "segtasks/codecs/mask.py").read_text() + "\n# changed there\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(other), os.environ.get("PYTHONPATH", "")]))
        cluster.add_node(num_cpus=1)
    with pytest.raises(ConfigError, match=r"node .*: segtasks code [0-9a-f]+, here [0-9a-f]+"):
        open_engine(EngineConfig(name="ray", address=cluster.address, ship_code=False))
    engine = open_engine(EngineConfig(name="ray", address=cluster.address))  # with ours sent along it runs what we run
    engine.close()


def test_a_node_that_is_lost_before_the_work_is_not_asked_for(cluster: Any) -> None:
    """Its raylet is gone, and Ray has not noticed yet."""
    lost = cluster.add_node(num_cpus=2)
    os.kill(lost.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    engine = open_engine(EngineConfig(name="ray", address=cluster.address, workers=1))
    try:
        assert len([outcome for outcome in engine.map(Squares, [{"n": n} for n in range(4)]) if isinstance(outcome, Done)]) == 4
    finally:
        engine.close()


def test_differences_name_the_node_and_both_versions() -> None:
    ours = facts()
    assert differences("n", ours, ours) == []
    assert differences("n", {**ours, "torch": "1.0"}, ours) == [f"node n: torch 1.0, here {ours['torch']}"]
