"""Kill a stage at every moment that matters, run it again, and compare with the undisturbed run. Any number of seeds.

    python -m benchmarks.faults --seeds 10                       # everything on the local engine, and raylets of a two-node cluster
    python -m benchmarks.faults --engine ray --faults driver,worker,everything,sigterm --seeds 3
    python -m benchmarks.faults --stages infer --faults shard:inside --seeds 100

The faults: SIGKILL of the `driver`, of one `worker`, of `everything` (the process group), of a `raylet` in a two-node cluster;
`sigterm` to the driver; and `step:moment`, SIGKILL of everything at a step of the commit protocol (recipe, manifest, plan, shard,
list, snapshot): `before` its write, `inside` (written to a temporary file, not yet under its name), `after`. The stage runs through the
command line in a process of its own. A seed decides which shard, how long after, how often in a row, and whether the output already
had a snapshot that the run adds to.

The oracle, after the last run ended with exit code 0: ids, statuses, errors, images and masks equal the undisturbed run's; none
comes twice; every listed object is there with its hash; shards that were there before are the same files (not written again) and the
last run computed only the others; no process of a killed run is left; a sweep takes leftovers only; one more run finds all done.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # also where it is called by its path

STAGES = ("ingest", "preprocess", "infer")
MOMENTS = ("before", "inside", "after")
STEPS = {
    "recipe": r"recipe\.json",
    "manifest": r"plans/lists/.*",
    "plan": r"plans/[0-9]+/plan\.json",
    "shard": r"shards/.*",
    "list": r"snapshots/lists/.*",
    "snapshot": r"snapshots/[0-9]+\.json",
}
PROCESS_FAULTS = ("driver", "worker", "everything", "sigterm")
FAULTS = (*PROCESS_FAULTS, "raylet", *(f"{step}:{moment}" for step in STEPS for moment in MOMENTS))
images = 60
shard_rows = 4
limit_s = 180.0  # for one run of a stage
farewell_s = 20.0  # for orphans to notice that their driver is gone
agents_farewell_s = 120.0  # Ray's agents look five times, 2 s apart, for their raylet, and then 60 s for its GCS, to report the loss


# --- the subject: one run of a stage in a process group of its own


@dataclass(frozen=True)
class Trap:
    """Kill the own process group at the `nth` write whose path matches, `before` it, `inside` it or `after` it."""

    path: str
    moment: str
    nth: int
    signal: int = signal.SIGKILL


def subject(arguments: list[str], log: str, trap: Trap | None, run: Callable[[list[str]], int] | None) -> None:
    """`segtasks ARGUMENTS`, or another function of them, in a new process group, with its output in the file `log`."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
    if trap is not None:
        _set(trap)
    if run is None:
        from segtasks.cli.entry import run

    os._exit(run(arguments))


def _set(trap: Trap) -> None:
    from segtasks.storage import _store

    seen = 0
    put, link = _store.LocalStore._put, os.link

    def spring() -> None:
        os.killpg(os.getpgid(0), trap.signal)  # a stopped process goes on after it

    def trapped_put(store: Any, path: str, data: bytes) -> None:
        nonlocal seen
        seen += bool(re.fullmatch(trap.path, path))
        now = trap.moment if seen == trap.nth and re.fullmatch(trap.path, path) else ""
        if now == "before":
            spring()
        if now == "inside":
            os.link = trapped_link
        put(store, path, data)
        if now == "after":
            spring()

    def trapped_link(*names: Any, **options: Any) -> None:
        os.link = link
        spring()
        link(*names, **options)

    _store.LocalStore._put = trapped_put  # type: ignore[method-assign]


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(  # everything that a run would import: then it starts in a tenth of a second
    [
        *(f"segtasks.stages.{name}" for name in (*STAGES, "train", "evaluate")),
        *("segtasks.cli.stages", "segtasks.engines.lazy", "segtasks.engines.local", "segtasks.models.unet", "segtasks.readers.folder"),
        *("pandas", "rlemasklib"),  # pandas: pyarrow imports it where it is installed
    ]
)


def start(
    arguments: Sequence[str], log: Path, trap: Trap | None = None, run: Callable[[list[str]], int] | None = None
) -> ForkServerProcess:
    """Start a subject; its process group's id is its pid."""
    process = _context.Process(target=subject, args=(list(arguments), str(log), trap, run), name=str(log))
    process.start()
    return process


def send(kill: Callable[[int, int], None], process: ForkServerProcess, number: int) -> None:
    """A signal to a process, or to its group, that may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        kill(process.pid or 0, number)


def wait(process: ForkServerProcess) -> int:
    """Its exit code, a signal as a negative number."""
    process.join(limit_s)
    if process.exitcode is None:
        send(os.kill, process, signal.SIGUSR1)  # its threads' stacks, into its log
        process.join(2)
        send(os.killpg, process, signal.SIGKILL)
        raise Wrong(f"a run did not end within {limit_s:.0f} s; the end of its log:\n{Path(process.name).read_text()[-8000:]}")
    return process.exitcode


# --- what is compared


class Wrong(Exception):
    """The oracle does not hold."""


def content(url: Path) -> dict[str, tuple[str, ...]]:
    """By id: status, error type, error, and the hashes of the pixels of image and mask, as the published snapshot has them."""
    from segtasks.shards import open_snapshot
    from segtasks.shards.schema import schema_named

    snapshot = open_snapshot(str(url))
    pictures = [name for name in ("image", "mask") if name in schema_named(snapshot.file.rows).names]
    found: dict[str, tuple[str, ...]] = {}
    for record in snapshot.shards():
        columns = ["image_id", "status", "error_type", "error", *pictures]
        for row in snapshot.read(record, columns, include_quarantined=True).to_pylist():
            if row["image_id"] in found:
                raise Wrong(f"{row['image_id']} comes twice")
            hashes = [pixel_hash((row[name] or {}).get("bytes") or b"") for name in pictures]
            found[row["image_id"]] = (row["status"], row["error_type"], row["error"], *hashes)
    return found


def pixel_hash(data: bytes) -> str:
    """Of the pixels: now and then ISA-L's deflate packs the same ones in other bytes."""
    if not data:
        return ""
    with Image.open(io.BytesIO(data)) as image:
        return hashlib.sha256(f"{image.mode} {image.size} {image.getpalette()}".encode() + image.tobytes()).hexdigest()


def shards(url: Path) -> dict[str, int]:
    """The shards that are there, with their inode numbers: a file that is written again has another."""
    return {str(path.relative_to(url)): path.stat().st_ino for path in url.glob("shards/*/part-*.parquet")}


def group_members(group: int) -> list[int]:
    """Live processes of a process group."""
    members = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry.name}/stat") as file:
                state, _, of = file.read().rpartition(")")[2].split()[:3]
                if int(of) == group and state != "Z":
                    members.append(int(entry.name))
    return members


def left_of(group: int, agents: bool) -> list[str]:
    """The commands of a process group's live processes, Ray's own agents among them or not."""
    commands = [(pid, command_of(pid)[:80].strip()) for pid in group_members(group)]
    return [f"{pid} {command}" for pid, command in commands if agents or not re.fullmatch(r"ray::\w+Agent", command)]


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
    return False


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
    return 0


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().replace("\0", " ")
    return ""


def until(condition: Callable[[], Any], seconds: float, pause: float = 0.002) -> bool:
    stop = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > stop:
            return False
        time.sleep(pause)
    return True


# --- the world: a source that grows once, a model, and each stage's undisturbed output

INLINE = ("--engine", "local", "--workers", "0")
TWO = ("--engine", "local", "--workers", "2")


@dataclass
class World:
    """`parts` of a source, `data` made of it in two snapshots, a `model`; `truth` is each stage's undisturbed content."""

    folder: Path
    truth: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)  # shards of an undisturbed run

    def arguments(self, stage: str, at: Path, *, first: bool, engine: Sequence[str]) -> list[str]:
        """The command line of a stage under the folder `at`; `first`: on its input as it was before it grew."""
        data = str(self.folder / "data" / "output") + ("@1" if first else "")
        own = {
            "ingest": ["--source", str(at / "source"), "--format", "folder", f"shard_rows={shard_rows}"],
            "preprocess": ["--data", data, "resize={height: 16, width: 20}"],
            "infer": ["--data", data, "--checkpoint", str(self.folder / "model")],
        }[stage]
        if stage == "ingest":
            for part in ("first",) if first else ("first", "second"):
                shutil.copytree(self.folder / "parts" / part, at / "source", copy_function=shutil.copy2, dirs_exist_ok=True)
        return [stage, *own, "--output", str(at / "output"), *engine]

    def run(self, stage: str, at: Path, *, first: bool = False, engine: Sequence[str] = INLINE) -> dict[str, Any]:
        """Run the stage undisturbed to its end; the result that it prints. Anything but exit code 0 is wrong."""
        at.mkdir(parents=True, exist_ok=True)
        log = at / "log.txt"
        start_of_answer = log.stat().st_size if log.exists() else 0
        code = wait(start([*self.arguments(stage, at, first=first, engine=engine), "--json"], log))
        text = log.read_text()[start_of_answer:]
        if code != 0:
            raise Wrong(f"the undisturbed {stage} ended with {code}:\n{text[-2000:]}")
        result: dict[str, Any] = json.loads(next(line for line in reversed(text.splitlines()) if line.startswith("{")))
        return result


def build_world(folder: Path) -> World:
    from tests.stages import world as small

    for part, begin, end, broken in (("first", 0, images // 2, 5), ("second", images // 2, images, images - 3)):
        small.write_images(folder / "parts" / part, end - begin, start=begin)
        (folder / "parts" / part / "images" / "train" / f"i{broken:04d}.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    small.model(folder)
    made = World(folder)
    made.run("ingest", folder / "data", first=True)
    made.run("ingest", folder / "data")
    for stage in STAGES:
        at = folder / "undisturbed" / stage
        made.run(stage, at)
        made.truth[stage], made.total[stage] = content(at / "output"), len(shards(at / "output"))
    statuses = Counter(row[0] for row in made.truth["ingest"].values())
    if statuses != {"ok": images - 2, "quarantined": 2}:
        raise Wrong(f"the undisturbed ingest gave {statuses}")
    return made


# --- the faults


@dataclass
class Case:
    """One seed of one fault on one stage."""

    world: World
    stage: str
    fault: str
    seed: int
    engine: str = "local"
    cluster: Any = None

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.stage} {self.fault} {self.engine} {self.seed}")
        self.at = self.world.folder / "runs" / f"{self.stage}-{self.fault.replace(':', '-')}-{self.engine}-{self.seed}"
        self.output = self.at / "output"
        self.groups: list[int] = []
        self.hits = 0  # faults that struck a run at work
        self.kept: dict[str, int] = {}

    def engine_arguments(self) -> tuple[str, ...]:
        if ":" in self.fault:
            return INLINE
        if self.cluster is not None:
            return ("--engine", "ray", "--workers", "2", f"engine.address={self.cluster.address}", "engine.ship_code=false")
        return ("--engine", self.engine, "--workers", "2")

    def play(self) -> None:
        """Everything, oracle included; raises `Wrong`. A run that is through before the fault strikes is played again."""
        for _ in range(5):
            self.strike_a_run()
            if self.hits:
                break
            shutil.rmtree(self.at)
        else:
            raise Wrong("the fault never struck a run at work")
        self.judge(self.world.run(self.stage, self.at, engine=self.engine_arguments()))

    def strike_a_run(self) -> None:
        self.at.mkdir(parents=True)
        grown = self.random.random() < 0.5 and not self.fault.startswith("recipe")
        if grown:
            self.world.run(self.stage, self.at, first=True)
        self.kept = shards(self.output)
        for _ in range(self.random.randint(1, 3)):
            self.strike()
            now = shards(self.output)
            lost = {path for path, inode in self.kept.items() if now.get(path) != inode}
            if lost:
                raise Wrong(f"finished shards were written again, or are gone: {sorted(lost)}")
            self.kept = now

    def strike(self) -> None:
        step, _, moment = self.fault.partition(":")
        arguments = self.world.arguments(self.stage, self.at, first=False, engine=self.engine_arguments())
        if moment:
            nth = self.random.randint(1, max(1, self.world.total[self.stage] // 2)) if step == "shard" else 1
            code = wait(start(arguments, self.at / "log.txt", Trap(STEPS[step], moment, nth)))
            self.expect(code, -signal.SIGKILL, 0)
            self.hits += code == -signal.SIGKILL
            return
        process = start(arguments, self.at / "log.txt")
        self.groups.append(process.pid or 0)
        self.wait_for_the_moment(process)
        if process.exitcode is None:
            {"driver": self.driver, "worker": self.worker, "everything": self.everything, "sigterm": self.sigterm, "raylet": self.raylet}[
                step
            ](process)
        else:
            self.expect(process.exitcode, 0)

    def wait_for_the_moment(self, process: ForkServerProcess) -> None:
        """Until some shards are there, and a little longer; now and then at a random moment of the start."""
        if self.random.random() < 0.2 and self.fault in ("driver", "everything", "sigterm"):
            until(lambda: process.exitcode is not None, self.random.uniform(0, 3))
            return
        there = len(self.kept) + self.random.randint(0 if self.fault != "worker" else 1, 4)
        if not until(lambda: process.exitcode is not None or len(shards(self.output)) >= there, limit_s):
            raise Wrong(f"no {there} shards within {limit_s:.0f} s")
        time.sleep(self.random.uniform(0, 0.02))

    def expect(self, code: int, *wanted: int) -> None:
        if code not in wanted:
            raise Wrong(f"exit code {code}, expected one of {wanted}; the end of its log:\n{(self.at / 'log.txt').read_text()[-2000:]}")

    def driver(self, process: ForkServerProcess) -> None:
        send(os.kill, process, signal.SIGKILL)
        code = wait(process)
        self.expect(code, -signal.SIGKILL, 0)
        self.hits += code != 0

    def everything(self, process: ForkServerProcess) -> None:
        send(os.killpg, process, signal.SIGKILL)
        code = wait(process)
        self.expect(code, -signal.SIGKILL, 0)
        self.hits += code != 0

    def sigterm(self, process: ForkServerProcess) -> None:
        send(os.kill, process, signal.SIGTERM)
        code = wait(process)
        # before the command line has taken over the signal, SIGTERM ends a process as it ends any
        self.expect(code, 128 + signal.SIGTERM, -signal.SIGTERM, 0)
        self.hits += code != 0

    def worker(self, process: ForkServerProcess) -> None:
        """One worker dies; the run itself must end well."""
        workers = self.workers(process.pid or 0)
        if workers:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                os.kill(self.random.choice(workers), signal.SIGKILL)
                self.hits += process.exitcode is None
        self.expect(wait(process), 0)

    def workers(self, driver: int) -> list[int]:
        if self.engine == "local":
            return [pid for pid in group_members(driver) if parent_of(pid) == driver and "spawn_main" in command_of(pid)]
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and "ray::_Worker" in command_of(int(entry.name))]

    def raylet(self, process: ForkServerProcess) -> None:
        """A node is lost; the run goes on with the other. A new node comes for the next run."""
        lost = next(iter(self.cluster.worker_nodes))
        os.kill(lost.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.hits += process.exitcode is None
        code = wait(process)
        self.cluster.remove_node(lost, allow_graceful=False)
        self.cluster.add_node(num_cpus=2)
        self.expect(code, 0)

    def judge(self, result: dict[str, Any]) -> None:
        from segtasks.shards import verify
        from segtasks.shards.sweep import sweep

        for group in self.groups:
            for seconds, agents in ((farewell_s, False), (agents_farewell_s, True)):
                if not until(lambda group=group, agents=agents: not left_of(group, agents), seconds, 0.05):
                    raise Wrong(f"processes of a killed run are left: {left_of(group, agents)}")
        now = shards(self.output)
        again = [path for path, inode in self.kept.items() if now.get(path) != inode]
        if again:
            raise Wrong(f"finished shards were written again: {again}")
        if result["computed_shards"] > len(now) - len(self.kept):
            raise Wrong(f"{result['computed_shards']} shards were computed; {len(self.kept)} of {len(now)} were there")
        for tidied in (False, True):
            if other := differences(content(self.output), self.world.truth[self.stage]):
                raise Wrong(f"the content is not that of the undisturbed run: {other}")
            if problems := verify(str(self.output)).problems:
                raise Wrong(f"verify: {problems}")
            if not tidied:
                sweep(str(self.output), dry_run=False, age_seconds=0)
        once_more = self.world.run(self.stage, self.at)
        if not once_more["already_done"] or once_more["snapshot"] != result["snapshot"]:
            raise Wrong(f"one more run computed {once_more['computed_shards']} shards")


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not the same by id."""
    ids = sorted(found.keys() | expected.keys())
    return [f"{key}: {found.get(key)}, not {expected.get(key)}" for key in ids if found.get(key) != expected.get(key)]


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        yield cluster
    finally:
        cluster.shutdown()


# --- the script


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--engine", default="local", choices=["local", "ray"], help="of driver, worker, everything and sigterm")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    chosen = options.faults.split(",")
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    folder = Path(tempfile.mkdtemp(prefix="segtasks-faults-"))
    began, wrong, runs = time.monotonic(), 0, 0
    try:
        world = build_world(folder)
        print(f"{images} images in {world.total['ingest']} shards; folder {folder}", flush=True)
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(two_nodes()) if "raylet" in chosen else None
            for fault in chosen:
                for stage in options.stages.split(","):
                    passed, hits = 0, 0
                    for seed in range(options.first_seed, options.first_seed + options.seeds):
                        on_ray = fault == "raylet"
                        case = Case(world, stage, fault, seed, "ray" if on_ray else options.engine, cluster if on_ray else None)
                        runs += 1
                        try:
                            case.play()
                            passed += 1
                            if not options.keep:
                                shutil.rmtree(case.at)
                        except Wrong as error:
                            wrong += 1
                            print(f"WRONG {stage} {fault} seed {seed} ({case.at}): {error}", flush=True)
                        hits += case.hits
                    engine = "inline" if ":" in fault else case.engine
                    print(
                        f"{stage:<11}{fault:<17}{engine:<7}{passed:>3} of {options.seeds} seeds hold, {hits:>3} faults struck", flush=True
                    )
    finally:
        if not options.keep and not wrong:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{runs} cases, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
