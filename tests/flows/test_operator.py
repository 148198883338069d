"""What an operator does, with Prefect's own commands on a server and a worker of their own: `infra/` as it is shipped, schedules, runs with
other parameters, a run that waits for another, one that is cancelled, and one whose machine is lost. After each, the masks are those of an
undisturbed run, and no shard was made twice.

A project folder of the test's own has `flows` and `infra` of this one, and its own `demo/images`: what `infra/prefect.yaml` works on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from segtasks.errors import SegtasksError
from segtasks.shards import open_snapshot
from tests.stages.world import content, run_infer, run_ingest, run_train, write_images

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
LOCAL = {"name": "local", "workers": 1}
RAY = {"name": "ray", "workers": 1}
IMAGES = 32
EVERY_S = "40"  # a run takes some ten seconds of both cores: with less between two, they would pile up
UNFINISHED = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
SHARD_ROWS = 4  # and a batch is four images: a forward pass of the model is a shard
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Operator:
    """A project folder, a server, and the commands of somebody who looks after them."""

    project: Path
    environment: dict[str, str]
    api: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.project.parent / log).open("ab") as file:
            process = subprocess.Popen(
                [PREFECT, *arguments], cwd=self.project, env=self.environment, stdout=file, stderr=file, start_new_session=True
            )
        self.started.append(process)
        return process

    def get(self, path: str, **body: Any) -> Any:
        response = httpx.post(f"{self.api}/{path}", json=body, timeout=30) if body else httpx.get(f"{self.api}/{path}", timeout=30)
        response.raise_for_status()
        return response.json()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Flow runs of a flow, the oldest first."""
        found = self.get("flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_ASC")
        return [run for run in found if isinstance(run, dict)]

    def unfinished(self) -> list[str]:
        found = self.get("flow_runs/filter", flow_runs={"state": {"type": {"any_": UNFINISHED}}})
        return [run["name"] for run in found]

    def state(self, run: str) -> str:
        return str(self.get(f"flow_runs/{run}")["state"]["type"])

    def logs(self, run: str) -> list[str]:
        found = self.get("logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
        return [line["message"] for line in found]

    def run(self, name: str, config: dict[str, Any]) -> str:
        """`prefect deployment run` with a changed configuration; returns the id of the flow run."""
        before = {run["id"] for run in self.runs(name.partition("/")[0])}
        self.prefect("deployment", "run", name, "--params", json.dumps({"config": config}))
        (made,) = {run["id"] for run in self.runs(name.partition("/")[0])} - before
        return str(made)

    def result(self, run: str) -> dict[str, Any]:
        """What a Completed run returned: read where Prefect keeps results, as JSON."""
        kept = self.get(f"flow_runs/{run}")["state"]["data"]
        document = json.loads((Path(self.environment["PREFECT_HOME"]) / "storage" / kept["storage_key"]).read_text())
        return dict(document)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below `pid`, that one not included. Those of a session that one of them leads belong to it too,
    whoever adopted them."""
    parents, sessions, commands = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    number = int(entry.name)
                    parents[number], sessions[number] = int(fields[1]), int(fields[3])
                    commands[number] = (entry / "cmdline").read_text().replace("\0", " ")[:150]
    found: set[int] = set()
    new = {pid}
    while new:
        found |= new
        new = {number for number in parents if parents[number] in found or (sessions[number] in found)} - found
    return {number: commands[number] for number in found - {pid}}


def alive(processes: dict[int, str]) -> dict[int, str]:
    """Which of these still run (a pid that means another command by now does not count)."""
    found = {}
    for number, command in processes.items():
        with suppress(FileNotFoundError, ProcessLookupError):
            state = (Path(f"/proc/{number}/stat")).read_text().rpartition(")")[2].split()[0]
            if state != "Z" and Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")[:150] == command:
                found[number] = command
    return found


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """End a command and everything below it; what does not end is killed, by its pid."""
    below = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    for pid in alive(below):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    project = folder / "project"
    project.mkdir()
    for name in ("flows", "infra"):
        (project / name).symlink_to(ROOT / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "RAY_ADDRESS"))}
    environment |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    operator = Operator(project, environment, environment["PREFECT_API_URL"])
    try:
        operator.start("server.log", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
        _prepare(project)
        wait_for(lambda: _healthy(operator.api), "the server answers", 120)
        operator.prefect("work-pool", "create", "segtasks", "--type", "process")
        operator.prefect("deploy", "--all", "--prefect-file", "infra/prefect.yaml")
        operator.prefect("deployment", "schedule", "pause", "--all")  # they are for the hour
        automations = yaml.safe_load((ROOT / "infra" / "prefect-automations.yaml").read_text())
        automations["automations"][0]["trigger"]["within"] = 40  # as shipped but for the time: it is 120 s there
        (folder / "automations.yaml").write_text(yaml.safe_dump(automations))
        operator.prefect("automation", "create", "--from-file", str(folder / "automations.yaml"))
        yield operator
    finally:
        for process in reversed(operator.started):
            end(process)


def _healthy(api: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{api}/health", timeout=5).status_code == 200
    return False


def _prepare(project: Path) -> None:
    """Images, shards of them, a model that stops where it is told, and the masks of an undisturbed run."""
    demo = project / "demo"
    write_images(demo / "all", IMAGES)
    run_ingest(demo / "all", demo / "all-data", shard_rows=SHARD_ROWS)
    model = {"name": "tests.flows.gated", "options": {"hold": str(demo / "hold")}}
    run_train(demo / "all-data", demo / "run" / "model", model=model, limit=8)
    run_infer(demo / "all-data", demo / "run" / "model", demo / "undisturbed")


@pytest.fixture
def worker(operator: Operator) -> Iterator[subprocess.Popen[bytes]]:
    process = operator.start("worker.log", "worker", "start", "--pool", "segtasks")
    yield process
    end(process)


def masks(operator: Operator, output: str, engine: dict[str, Any]) -> dict[str, Any]:
    return {"data": "demo/all-data", "checkpoint": "demo/run/model", "output": output, "engine": engine}


@contextmanager
def held(operator: Operator, batches: int) -> Iterator[Callable[[], bool]]:
    """Every worker stops before its batch `batches` + 1, for as long as this is open; gives what says whether one has."""
    hold = operator.project / "demo" / "hold"
    hold.with_suffix(".reached").unlink(missing_ok=True)
    hold.write_text(str(batches))
    try:
        yield hold.with_suffix(".reached").exists
    finally:
        hold.unlink(missing_ok=True)


def shards(output: Path) -> dict[str, int]:
    """Files that are there, and when they were written."""
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in output.glob("shards/*/*.parquet")}


def completed(operator: Operator, run: str, seconds: float = 120) -> dict[str, Any]:
    wait_for(lambda: operator.state(run) not in UNFINISHED, f"{run} ends", seconds)
    assert operator.state(run) == "COMPLETED", operator.logs(run)
    return operator.result(run)


def test_schedules_take_up_images_as_they_arrive(operator: Operator, worker: subprocess.Popen[bytes]) -> None:
    demo = operator.project / "demo"
    predictions = demo / "run" / "masks"
    write_images(demo / "images", IMAGES // 2)
    operator.prefect("deployment", "schedule", "create", "ingest/prod", "--interval", EVERY_S, "--replace", "-y")
    wait_for(lambda: published(demo / "run" / "data") == IMAGES // 2, "the first images are read")
    operator.prefect("deployment", "schedule", "create", "infer/prod", "--interval", EVERY_S, "--replace", "-y")
    wait_for(lambda: published(predictions) == IMAGES // 2, "the first images are predicted")
    write_images(demo / "images", IMAGES // 2, start=IMAGES // 2)
    wait_for(lambda: published(predictions) == IMAGES, "the images that came later are predicted too")
    for name in ("ingest/prod", "infer/prod"):
        operator.prefect("deployment", "schedule", "clear", name, "-y")
    wait_for(lambda: not operator.unfinished(), "runs that were started end")
    for flow in ("ingest", "infer"):
        made = [operator.result(run["id"])["computed_shards"] for run in operator.runs(flow) if run["state_name"] == "Completed"]
        assert [number for number in made if number] == [1, 1]
    assert {run["state_name"] for run in operator.runs("infer")} == {"Completed"}
    assert content(predictions) == content(demo / "undisturbed")


def published(output: Path) -> int:
    """Rows of the newest snapshot."""
    try:
        return open_snapshot(str(output)).counts.rows
    except SegtasksError:
        return 0


def test_a_second_run_on_an_output_waits_and_finds_everything_done(operator: Operator, worker: subprocess.Popen[bytes]) -> None:
    output = operator.project / "demo" / "twice"
    with held(operator, 2) as reached:
        first = operator.run("infer/prod", masks(operator, "demo/twice", LOCAL))
        wait_for(reached, "the first run is at its third shard")
        second = operator.run("infer/prod", {**masks(operator, str(output), LOCAL), "batch_size": 2})
        wait_for(lambda: any("waits for another run on" in line for line in operator.logs(second)), "the second waits")
        assert len(shards(output)) == 2
    assert (completed(operator, first)["computed_shards"], completed(operator, second)["computed_shards"]) == (8, 0)
    assert content(output) == content(operator.project / "demo" / "undisturbed")


def test_a_cancelled_run_leaves_no_process_and_the_next_goes_on(operator: Operator, worker: subprocess.Popen[bytes]) -> None:
    output = operator.project / "demo" / "cancelled"
    with held(operator, 3) as reached:
        run = operator.run("infer/prod", masks(operator, "demo/cancelled", RAY))
        wait_for(reached, "the run is at its fourth shard")
        below = descendants(worker.pid)
        assert [command for command in below.values() if "raylet" in command]
        assert [command for command in below.values() if command.startswith("ray::")]
        operator.prefect("flow-run", "cancel", run)
        asked = time.monotonic()
        wait_for(lambda: not alive(below), "the run's processes are gone", 60)
        assert time.monotonic() - asked < 10
        wait_for(lambda: operator.state(run) == "CANCELLED", "the run is Cancelled")
    kept = shards(output)
    assert len(kept) == 3
    again = operator.run("infer/prod", masks(operator, "demo/cancelled", LOCAL))
    assert completed(operator, again)["computed_shards"] == 5
    assert {name: written for name, written in shards(output).items() if name in kept} == kept
    assert content(output) == content(operator.project / "demo" / "undisturbed")


def test_a_run_whose_machine_is_lost_is_found_crashed_and_a_retry_goes_on(operator: Operator) -> None:
    output = operator.project / "demo" / "lost"
    worker = operator.start("worker.log", "worker", "start", "--pool", "segtasks")
    with held(operator, 3) as reached:
        run = operator.run("infer/prod", masks(operator, "demo/lost", LOCAL))
        wait_for(reached, "the run is at its fourth shard")
        for pid in (worker.pid, *descendants(worker.pid)):
            os.kill(pid, signal.SIGKILL)
        worker.wait(timeout=10)
    kept = shards(output)
    assert len(kept) == 3
    assert operator.state(run) == "RUNNING"  # nobody is left who could say otherwise
    wait_for(lambda: operator.state(run) == "CRASHED", "the automation finds the run", 150)
    other = operator.start("worker.log", "worker", "start", "--pool", "segtasks")
    operator.prefect("flow-run", "retry", run)
    assert completed(operator, run, 180)["computed_shards"] == 5
    end(other)
    assert {name: written for name, written in shards(output).items() if name in kept} == kept
    assert content(output) == content(operator.project / "demo" / "undisturbed")
