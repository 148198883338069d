"""Ray actors, one item each at a time, and Ray Train for groups of ranks.

Ray carries descriptors and records, never pixels, and decides nothing: an actor that dies takes one item with it, which comes
back as `Failed`; a fresh actor takes the place. Why actors and not a Ray Data pipeline: docs/decisions/0002-ray-actors.md.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segtasks.engines import _watch
from segtasks.engines._base import JSON, Done, Failed, Rank, Report, WorkerFactory
from segtasks.engines._worker import available_cpus, device_for, failure, how_it_died, one_line
from segtasks.engines.config import EngineConfig
from segtasks.engines.ray.cluster import differences, facts, refuse, require_same_everywhere, shipped_code
from segtasks.errors import ConfigError, SegtasksError
from segtasks.storage import _environment

log = logging.getLogger(__name__)
_object_store_bytes = 128 << 20  # of a local cluster: nothing large ever crosses it
_farewell_seconds = 2.0
_patience_seconds = 60.0  # then say what is waited for
_items_ahead = 2  # a worker finds its next item waiting


class RayEngine:
    """Attached to `address`, or to a cluster that lives as long as this engine."""

    name = "ray"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._actors: set[ActorHandle[Any]] = set()
        self._started = False
        self._facts: dict[str, str] | None = None  # of a cluster that we attached to: every worker must have the same
        self._connect()

    def _connect(self) -> None:
        if ray.is_initialized():  # the caller's cluster (a Ray job, a test): used, not shut down
            here = ray.get_runtime_context().gcs_address
            if self._config.address not in (None, "auto", here):
                raise ConfigError(f"this process is attached to Ray at {here} already; needed: {self._config.address}, in a fresh process")
            return
        _require_reachable(self._config.address)
        common: dict[str, Any] = {
            "log_to_driver": True,
            "logging_level": logging.WARNING,
            "runtime_env": {"worker_process_setup_hook": "segtasks.engines.ray.logs.set_up"},
        }
        try:
            if self._config.address is None:
                # one logical CPU more than there are: the workers may use every core, and Ray's own actors still find a place
                cpus = max(available_cpus(), self._config.workers or 0) + 1
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_object_store_bytes, **common)
            else:
                if self._config.ship_code:
                    common["runtime_env"]["py_modules"] = shipped_code()
                ray.init(address=self._config.address, **common)
        except (ConnectionError, RayError, ValueError) as error:
            where = self._config.address or "a local cluster"
            raise ConfigError(
                f"Ray cannot be reached at {where}: {one_line(error)}; check the address, or leave it out for a local cluster"
            ) from error
        self._started = True
        if self._config.address is not None:
            try:
                self._facts = facts()
                require_same_everywhere()
            except BaseException:
                self.close()
                raise

    @property
    def workers(self) -> int:
        """As configured, or as many as the cluster has CPUs (GPUs, when workers reserve them), one CPU left free."""
        if self._config.workers is not None:
            return max(1, self._config.workers)
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        workers = int(total.get("CPU", 1)) - 1
        if self._config.gpus_per_worker:
            workers = min(workers, int(total.get("GPU", 0) / self._config.gpus_per_worker))
        return max(1, workers)

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        if not items:
            return
        factory = ray.put(make_worker)
        mailbox = _mailbox()
        returned: deque[JSON] = deque()  # of actors that died, before they got to them
        source, waiting = iter(items), len(items)
        starting: dict[Any, ActorHandle[Any]] = {}  # holds no items: on a cluster that lost a node it may start late, or never
        # each started actor's items, in the order it works on them
        queues: dict[ActorHandle[Any], deque[tuple[Any, JSON]]] = {}

        def start() -> None:
            actor = self._start_actor(factory, mailbox)
            starting[actor.started.remote(self._facts)] = actor

        def fill(actor: ActorHandle[Any]) -> None:
            nonlocal waiting
            while waiting and len(queues[actor]) < _items_ahead:
                item = returned.popleft() if returned else next(source)
                waiting -= 1
                queues[actor].append((actor.run.remote(item), item))

        try:
            for _ in range(min(self.workers, len(items))):
                start()
            # only the first of each queue is waited for: when an actor dies, all its items fail, but that one was at work
            while heads := {queue[0][0]: actor for actor, queue in queues.items() if queue} | (starting if waiting else {}):
                ready, _ = ray.wait(list(heads), num_returns=1, timeout=_patience_seconds)
                if not ready:
                    self._say_what_is_missing(len(starting))
                    continue
                (reference,) = ready
                if (actor := starting.pop(reference, None)) is not None:
                    try:
                        refuse(ray.get(reference))
                    except RayActorError as error:
                        self._actors.discard(actor)
                        log.warning("a worker did not start, another is tried: %s", one_line(error))
                        start()
                        continue
                    queues[actor] = deque()
                    fill(actor)
                    continue
                actor = heads[reference]
                _, item = queues[actor].popleft()
                try:
                    kind, value = ray.get(reference)
                except RayActorError as error:
                    left = [one for _, one in queues.pop(actor)]
                    returned.extend(left)
                    waiting += len(left)
                    self._actors.discard(actor)
                    start()
                    codes = dict(ray.get(mailbox.take.remote()))
                    how = how_it_died(codes.get(actor._actor_id.hex()))
                    yield Failed(item, how, "WorkerDied", f"the worker process died ({one_line(error)})")
                    continue
                except RayTaskError as error:
                    kind, value = "failed", failure(item, error.cause if isinstance(error.cause, Exception) else error)
                fill(actor)
                yield Done(item, value) if kind == "done" else value
        finally:
            for actor in (*queues, *starting.values()):
                self._stop_actor(actor)
            ray.kill(mailbox)

    def _say_what_is_missing(self, starting: int) -> None:
        if starting:
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            log.warning(
                "%d worker(s) wait for a place on the cluster (free: %s CPU, %s GPU)", starting, free.get("CPU", 0), free.get("GPU", 0)
            )

    def _start_actor(self, factory: Any, mailbox: Any) -> ActorHandle[Any]:
        options = {"num_cpus": 1, "num_gpus": self._config.gpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
        actor: ActorHandle[Any] = _Worker.options(**options).remote([factory], mailbox)  # type: ignore[attr-defined]
        self._actors.add(actor)
        return actor

    def _stop_actor(self, actor: ActorHandle[Any]) -> None:
        self._actors.discard(actor)
        ray.kill(actor)

    def train(self, function: Any, world: int, report: Report) -> JSON:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        events = _mailbox()
        forward = _Forwarder(events, report)
        gpus = self._config.gpus_per_worker
        resources = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
        with tempfile.TemporaryDirectory(prefix="segtasks-ray-train-") as folder:
            trainer = TorchTrainer(
                _train_loop,
                train_loop_config={"function": function, "events": events},
                scaling_config=ScalingConfig(num_workers=world, use_gpu=bool(gpus), resources_per_worker=resources),
                # our own checkpoints are the state; Ray Train starts the group again after a loss and keeps nothing
                run_config=RunConfig(name="train", storage_path=folder, failure_config=FailureConfig(max_failures=3)),
            )
            try:
                with forward:
                    trainer.fit()
            except TrainingFailedError as error:
                raise forward.failure or SegtasksError(f"training failed: {one_line(error)}") from error
            finally:
                result, own_failure = forward.result, forward.failure
                ray.kill(events)
        if own_failure is not None:
            raise own_failure
        if result is None:
            raise SegtasksError("training ended without a result; run again to resume from the last checkpoint")
        return result

    def close(self) -> None:
        for actor in list(self._actors):
            self._stop_actor(actor)
        if self._started and ray.is_initialized():
            ray.shutdown()
        self._started = False


def _require_reachable(address: str | None) -> None:
    """Ray itself tries an address that nobody listens on for more than a minute."""
    match = re.fullmatch(r"(?:ray://)?\[?([^\]/]+?)\]?:(\d+)", address or "")
    if match is None:
        return  # no address, or one that Ray resolves itself: auto
    try:
        socket.create_connection((match[1], int(match[2])), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"Ray cannot be reached at {address}: {one_line(error)}; check the address and that the head runs, "
            "or leave it out for a local cluster"
        ) from error


@ray.remote
class _Worker:
    """Holds one stateful worker; exceptions come back as values, so that Ray retries nothing."""

    def __init__(self, factory: list[Any], mailbox: Any) -> None:
        self._factory = factory[0]
        self._worker: Any = None
        _environment.take(ray.get(mailbox.credentials.remote()))
        _watch.killable = True
        _watch.farewell = _Farewell(mailbox)

    def started(self, expected: dict[str, str] | None) -> list[str]:
        """What differs here from the driver: this node may have joined the cluster after the others were asked."""
        return differences(ray.util.get_node_ip_address(), facts(), expected) if expected else []  # type: ignore[no-untyped-call]

    def run(self, item: JSON) -> tuple[str, Any]:
        try:
            if self._worker is None:
                self._worker = ray.get(self._factory)()
            return "done", self._worker(item)
        except Exception as error:
            return "failed", failure(item, error)


class _Farewell:
    """Says why a worker ends itself: Ray tells the driver that a process died, but not its exit code."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._me = ray.get_runtime_context().get_actor_id()

    def __call__(self, code: int) -> None:
        with suppress(RayError):
            ray.get(self._mailbox.put.remote(self._me, code), timeout=_farewell_seconds)


@ray.remote
class _Events:
    """A mailbox from workers and ranks to the driver."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Any]] = []
        self._failed = False
        self._credentials: dict[str, str] = {}

    def keep(self, credentials: dict[str, str]) -> None:
        """Credentials go from actor to actor: the arguments of a constructor and a runtime environment are stored by Ray."""
        self._credentials = credentials

    def credentials(self) -> dict[str, str]:
        return self._credentials

    def put(self, kind: str, value: Any) -> None:
        self._failed = self._failed or kind == "failure"
        self._waiting.append((kind, value))

    def failed(self) -> bool:
        return self._failed

    def take(self) -> list[tuple[str, Any]]:
        taken, self._waiting = self._waiting, []
        return taken


def _mailbox() -> Any:
    """A mailbox on the driver's own node: it must outlive the others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = _Events.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    ray.get(mailbox.keep.remote(_environment.credentials()))
    return mailbox


class _Forwarder:
    """While training runs: moves events from the mailbox to `report`, in the driver."""

    def __init__(self, events: Any, report: Report) -> None:
        self._events, self._report = events, report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segtasks-train-events", daemon=True)
        self.result: JSON | None = None
        self.failure: Exception | None = None

    def __enter__(self) -> _Forwarder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._drain()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._drain()

    def _drain(self) -> None:
        if not ray.is_initialized():
            return  # shut down under us: a signal ends the run
        try:
            taken = ray.get(self._events.take.remote())
        except RayError as error:
            log.warning("training events are lost: %s", one_line(error))
            return
        for kind, value in taken:
            if kind == "event":
                self._report(value)
            elif kind == "result":
                self.result = value
            elif self.failure is None:
                self.failure = value


def _train_loop(config: dict[str, Any]) -> None:
    """One rank, inside a Ray Train worker: the process group is up."""
    import ray.train
    import torch
    import torch.distributed as dist

    events = config["events"]
    if ray.get(events.failed.remote()):
        return  # Ray Train starts the group again after any exception; one of ours would only come again
    _environment.take(ray.get(events.credentials.remote()))
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, available_cpus() // max(1, context.get_local_world_size())))

    def report(event: JSON) -> None:
        ray.get(events.put.remote("event", event))

    try:
        result = config["function"](Rank(rank=rank, world=world, report=report, device=device_for(0)))
    except SegtasksError as error:
        ray.get(events.put.remote("failure", error))
        raise
    if rank == 0:
        ray.get(events.put.remote("result", result))
    if dist.is_initialized():
        dist.barrier()


os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray 2.60 warns about it on machines without a GPU
# it is connected out of the main thread, so that it leaves the handler of SIGTERM alone: that is no reason for a warning
logging.getLogger("ray._private.worker").addFilter(lambda record: not record.getMessage().startswith("SIGTERM handler is not set"))
