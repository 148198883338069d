"""Before any work on a cluster that we attach to: every node must run the same code, Python, Ray and libraries as the driver.

A node with other code would write other rows under the same recipe, and nobody would see it.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import segtasks
from segtasks.engines._worker import one_line
from segtasks.errors import ConfigError

_libraries = ("ray", "torch", "numpy", "pyarrow", "pillow")
_answer_seconds = 60.0
_heartbeats_seconds = 30.0  # Ray takes a silent node for dead after 15 s
log = logging.getLogger(__name__)


def shipped_code() -> list[str]:
    """What `runtime_env` takes along: the package as it is here, uncommitted changes included."""
    return [str(Path(segtasks.__file__).parent)]


def facts() -> dict[str, str]:
    """Versions in this process, and a hash of segtasks' source."""
    root = Path(segtasks.__file__).parent
    code = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    found = {"segtasks": segtasks.__version__, "segtasks code": code.hexdigest()[:16], "python": platform.python_version()}
    for library in _libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "absent"
    return found


def differences(node: str, theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    """`node 10.0.0.3: torch 2.9.0, here 2.13.0` for every fact that differs."""
    return [f"node {node}: {name} {theirs.get(name, 'absent')}, here {ours[name]}" for name in ours if theirs.get(name) != ours[name]]


def require_same_everywhere() -> None:
    """Ask every node; `ConfigError` with a line for each difference, or for a node that does not answer.

    A node that is lost meanwhile does no work and is no difference. One that joins later is asked by its first worker.
    """
    probe: Any = ray.remote(num_cpus=0, max_retries=0)(facts)
    asked = [
        (node, probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote())
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    ours, lines = facts(), []
    for node, answer in asked:
        name = node["NodeManagerAddress"]
        try:
            lines += differences(name, ray.get(answer, timeout=_answer_seconds), ours)
        except (RayTaskError, RuntimeEnvSetupError) as error:
            lines.append(f"node {name}: segtasks cannot be imported there ({one_line(error)[-200:]})")
        except (GetTimeoutError, RayError) as error:
            if _is_lost(node["NodeID"]):
                log.warning("node %s was lost before any work, the others go on", name)
            elif isinstance(error, GetTimeoutError):
                lines.append(f"node {name}: no answer within {_answer_seconds:.0f} s")
            else:
                lines.append(f"node {name}: it could not be asked ({one_line(error)[-200:]})")
    refuse(lines)


def refuse(lines: Sequence[str]) -> None:
    """`ConfigError` that lists the differences, if there are any."""
    if lines:
        listing = "\n".join(f"  {line}" for line in lines)
        raise ConfigError(
            f"the cluster's nodes do not run what runs here, and would write other rows:\n{listing}\nInstall the same versions there."
        )


def _is_lost(node: str) -> bool:
    """Whether Ray takes the node for dead, or does so soon: it waits for some heartbeats first."""
    stop = time.monotonic() + _heartbeats_seconds
    while True:
        alive = {one["NodeID"] for one in ray.nodes() if one["Alive"]}  # type: ignore[no-untyped-call]
        if node not in alive:
            return True
        if time.monotonic() > stop:
            return False
        time.sleep(0.5)
