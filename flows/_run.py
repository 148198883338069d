"""What every flow does around a stage: engine, retries, logs, progress, artifacts, names. The stage does the work.

A Prefect task is a whole stage. Trying again resumes: what the store holds is not computed twice. Nothing is cached by Prefect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows._progress import ProgressArtifact
from flows._turn import turn
from segtasks.config import Config
from segtasks.engines import Engine, EngineConfig
from segtasks.engines.lazy import LazyEngine
from segtasks.errors import SegtasksError
from segtasks.stages.config import ExportDataConfig, ReportConfig, StageConfig
from segtasks.stages.pipeline import run_stage
from segtasks.stages.progress import Progress
from segtasks.stages.result import StageResult

JSON = dict[str, Any]
retry_delays_s = [10.0, 60.0]

# A flow's result is a small JSON document, so that whoever started the run elsewhere can read it; tasks' results stay in memory.
FLOW_OPTIONS: dict[str, Any] = {"persist_result": True, "result_serializer": "json"}


class _Engines:
    """The flow's engines by configuration: five stages share one cluster."""

    def __init__(self) -> None:
        self._made: dict[EngineConfig, LazyEngine] = {}

    def get(self, config: EngineConfig) -> LazyEngine:
        return self._made.setdefault(config, LazyEngine(config))

    def close(self) -> None:
        for engine in self._made.values():
            engine.close()


_engines: ContextVar[_Engines] = ContextVar("segtasks_engines")
_listeners: list[Progress] = []


@contextmanager
def listening(listener: Progress) -> Iterator[None]:
    """Send the events of flows that run in this process to `listener` too (the command line's bars)."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def engines() -> Iterator[None]:
    """Close on leaving, however that happens, what the stages inside opened: a cancelled run frees its workers."""
    held = _Engines()
    token = _engines.set(held)
    try:
        yield
    finally:
        _engines.reset(token)
        held.close()


# Faults of the code: the next try would end the same way, after minutes of waiting.
_PROGRAMMING_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError)


def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Not where the outcome cannot change: wrong configuration or input (exit 2), a threshold that is missed (exit 3), a bug."""
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    if isinstance(error, _PROGRAMMING_ERRORS) or (isinstance(error, SegtasksError) and error.exit_code in (2, 3)):
        return False
    if run.run_count <= len(retry_delays_s):
        _tell({"event": "log", "stage": task.name, "message": f"failed, and is tried again: {error}"})
    return True


def _tell(event: JSON) -> None:
    for listener in _listeners:
        listener(event)


def stage(name: str, config: Config) -> JSON:
    """Run the stage `name` as a task of its own; returns its `StageResult` as JSON."""
    return _stage.with_options(name=name, task_run_name=name, retry_delay_seconds=retry_delays_s)(name, config)


@task(
    retries=len(retry_delays_s),
    retry_jitter_factor=0.3,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _stage(name: str, config: Config) -> JSON:
    artifact = ProgressArtifact(name)

    def progress(event: JSON) -> None:
        artifact(event)
        _tell(event)

    with logs_to_prefect(name), _turn_for(config):
        try:
            result = run_stage(name, config, _engine_for(config), progress)
        except BaseException:
            _engines.get().close()  # it may be what broke; the next try opens another
            raise
        _log_result(result)
    return result.model_dump(mode="json")


def _turn_for(config: Config) -> AbstractContextManager[None]:
    """Nobody else's turn while this writes. A dry run writes nothing."""
    assert isinstance(config, (StageConfig, ExportDataConfig, ReportConfig))
    return nullcontext() if not isinstance(config, ReportConfig) and config.dry_run else turn(config.output)


def _engine_for(config: Config) -> Engine | None:
    return _engines.get().get(config.engine) if isinstance(config, (StageConfig, ExportDataConfig)) else None


def _log_result(result: StageResult) -> None:
    rows = {
        "output": result.url if result.snapshot is None else f"{result.url}@{result.snapshot}",
        **result.counts,
        "made in this run (shards)": result.computed_shards,
        "already done": result.already_done,
        "seconds": result.seconds,
        **{key: value for key, value in result.details.items() if isinstance(value, (str, int, float))},
    }
    create_table_artifact(
        key=f"{result.stage}-result",
        table=[{"what": key, "value": value} for key, value in rows.items()],
        description=f"Result of {result.stage}",
    )
    get_run_logger().info("%s: %s", result.stage, ", ".join(f"{key} {value}" for key, value in rows.items()))


@contextmanager
def logs_to_prefect(stage: str) -> Iterator[None]:
    """Records of the `segtasks` loggers go to the current run's logger, from whichever thread they come, and to listeners."""
    logger = logging.getLogger("segtasks")
    handler, level, propagate = _Bridge(stage, get_run_logger()), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # else the console shows each line twice
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Bridge(logging.Handler):
    def __init__(self, stage: str, target: Any) -> None:
        super().__init__()
        self._stage, self._target = stage, target

    def emit(self, record: logging.LogRecord) -> None:
        self._target.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)
        if record.levelno >= logging.INFO:
            _tell({"event": "log", "stage": self._stage, "message": record.getMessage()})
