"""One seed of every fault of benchmarks/faults.py: a stage that is killed ends, run again, as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> faults.World:
    return faults.build_world(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("stage", faults.STAGES)
@pytest.mark.parametrize("fault", [fault for fault in faults.FAULTS if fault != "raylet"])
def test_a_killed_stage_ends_as_if_undisturbed(world: faults.World, stage: str, fault: str) -> None:
    faults.Case(world, stage, fault, seed=0).play()


@pytest.mark.parametrize("fault", ["driver", "everything", "worker", "sigterm"])
def test_so_it_does_on_ray(world: faults.World, fault: str) -> None:
    faults.Case(world, "infer", fault, seed=0, engine="ray").play()


def test_a_lost_node_is_survived(world: faults.World) -> None:
    with faults.two_nodes() as cluster:
        for stage in faults.STAGES:
            faults.Case(world, stage, "raylet", seed=0, engine="ray", cluster=cluster).play()


def test_a_shard_that_is_gone_is_seen(world: faults.World, tmp_path: Path) -> None:
    """The oracle itself: it must be able to fail."""
    case = faults.Case(world, "ingest", "shard:before", seed=0)
    case.at = tmp_path
    case.output = tmp_path / "output"
    result = world.run("ingest", tmp_path)
    next(case.output.glob("shards/*/*.parquet")).unlink()
    with pytest.raises(FileNotFoundError):
        case.judge({**result, "computed_shards": 0})
