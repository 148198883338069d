"""Several processes on one output at once: one winner, nothing twice, and readers see nothing or the whole."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from benchmarks import faults
from segtasks.errors import InputError
from segtasks.shards import open_snapshot, verify
from segtasks.shards.snapshot import snapshot_numbers
from segtasks.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> faults.World:
    return faults.build_world(tmp_path_factory.mktemp("races"))


def snapshots(output: Path) -> list[int]:
    return snapshot_numbers(open_store(str(output)))


def require_undisturbed(world: faults.World, stage: str, output: Path) -> None:
    assert faults.content(output) == world.truth[stage]
    assert verify(str(output)).problems == ()


def read_in_a_loop(url: str, sizes: set[int], stop: Event, whole: Event, log: str) -> None:
    """Open the output until told to stop: either nothing is published, or every row of a snapshot is there."""
    with open(log, "w") as file:
        faulthandler.enable(file)
        try:
            while not stop.wait(0.001):
                try:
                    snapshot = open_snapshot(url)
                except InputError:
                    continue
                ids = [
                    row["image_id"]
                    for record in snapshot.shards()
                    for row in snapshot.read(record, ["image_id"], include_quarantined=True).to_pylist()
                ]
                assert len(set(ids)) == len(ids)
                assert len(ids) in sizes, f"a reader saw {len(ids)} rows"
                whole.set()
        except BaseException:
            traceback.print_exc(file=file)
            raise


@contextlib.contextmanager
def reader_of(output: Path, sizes: set[int]) -> Iterator[None]:
    """A process that reads the output all the while; in the end it must have seen a whole snapshot, and never a part of one."""
    stop, whole, log = _spawn.Event(), _spawn.Event(), output.parent / "reader.txt"
    process = _spawn.Process(target=read_in_a_loop, args=(str(output), sizes, stop, whole, str(log)))
    process.start()
    try:
        yield
        saw_one = faults.until(lambda: whole.is_set() or process.exitcode is not None, faults.limit_s, 0.02) and whole.is_set()
    finally:
        stop.set()
        process.join(faults.limit_s)
    assert (process.exitcode, saw_one) == (0, True), log.read_text()


def start_and_stop_at(world: faults.World, stage: str, at: Path, step: str, moment: str, log: str = "zombie.txt") -> ForkServerProcess:
    """A run that stands still (SIGSTOP) at a step of the protocol."""
    arguments = world.arguments(stage, at, first=True, engine=faults.INLINE)
    process = faults.start(arguments, at / log, faults.Trap(faults.STEPS[step], moment, 1, signal.SIGSTOP))
    assert faults.until(lambda: faults.is_stopped(process.pid or 0), 120, 0.01), f"it did not come to {step}:{moment}"
    return process


def go_on(process: ForkServerProcess) -> int:
    os.killpg(process.pid or 0, signal.SIGCONT)
    return faults.wait(process)


@pytest.mark.parametrize("stage", faults.STAGES)
def test_two_drivers_of_one_recipe_end_with_one_result(world: faults.World, stage: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with reader_of(output, {len(world.truth[stage])}):
        arguments = world.arguments(stage, tmp_path, first=False, engine=faults.TWO)
        drivers = [faults.start(arguments, tmp_path / f"log-{number}.txt") for number in range(2)]
        assert [faults.wait(driver) for driver in drivers] == [0, 0]
    require_undisturbed(world, stage, output)
    assert snapshots(output) == [1]


@pytest.mark.parametrize("step", ["plan:before", "shard:inside", "list:after", "snapshot:inside"])
def test_a_zombie_driver_changes_nothing_that_others_finished(world: faults.World, step: str, tmp_path: Path) -> None:
    """It stands still; another finishes, the source grows, a third run adds to the output; then the first one goes on."""
    output = tmp_path / "output"
    with reader_of(output, {faults.images // 2, faults.images}):
        zombie = start_and_stop_at(world, "ingest", tmp_path, *step.split(":"))
        world.run("ingest", tmp_path, first=True)
        world.run("ingest", tmp_path)
        there = faults.shards(output)
        assert go_on(zombie) == 0
    assert faults.shards(output) == there, "the zombie wrote a shard that was there"
    require_undisturbed(world, "ingest", output)
    assert snapshots(output) == [1, 2]


def test_two_publishers_of_one_number_publish_one_snapshot(world: faults.World, tmp_path: Path) -> None:
    """Both have written the snapshot and are about to give it its name."""
    stage, output = "infer", tmp_path / "output"
    both = [start_and_stop_at(world, stage, tmp_path, "snapshot", "inside", f"{number}.txt") for number in range(2)]
    assert snapshots(output) == []
    for publisher in both:
        os.killpg(publisher.pid or 0, signal.SIGCONT)
    assert [faults.wait(publisher) for publisher in both] == [0, 0]
    assert snapshots(output) == [1]
    world.run(stage, tmp_path)
    require_undisturbed(world, stage, output)


def test_of_two_recipes_on_an_empty_output_one_wins_and_the_other_exits_2(world: faults.World, tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = world.arguments("infer", tmp_path, first=False, engine=faults.INLINE)
    trap = faults.Trap(faults.STEPS["recipe"], "inside", 1, signal.SIGSTOP)  # both have seen that there is no recipe
    both = [
        faults.start([*arguments, *more], tmp_path / f"{name}.txt", trap)
        for name, more in (("all", ()), ("train", ("where={split: train}", "limit=20")))
    ]
    for one in both:
        assert faults.until(lambda: faults.is_stopped(one.pid or 0), 120, 0.01)  # noqa: B023 - called at once
    for one in both:
        os.killpg(one.pid or 0, signal.SIGCONT)
    codes = [faults.wait(one) for one in both]
    assert sorted(codes) == [0, 2]
    loser = (tmp_path / ("all.txt" if codes[0] else "train.txt")).read_text()
    assert "was made by another recipe" in loser
    assert "config.limit: " in loser
    assert len(faults.content(output)) == (20 if codes[0] else len(world.truth["infer"]))
    assert verify(str(output)).problems == ()
