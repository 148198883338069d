"""Before any work on a cluster that we attach to: every node must run the same code, Python, Ray and libraries as the driver.

A node with other code would write other rows under the same recipe, and nobody would see it.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import segtasks
from segtasks.engines._worker import one_line
from segtasks.errors import ConfigError

_libraries = ("ray", "torch", "numpy", "pyarrow", "pillow")
_answer_seconds = 60.0


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
    """Ask every node; `ConfigError` with a line for each difference, or for a node that does not answer."""
    probe: Any = ray.remote(num_cpus=0, max_retries=0)(facts)
    asked = [
        (node["NodeManagerAddress"], probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote())
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    ours, lines = facts(), []
    for node, answer in asked:
        try:
            lines += differences(node, ray.get(answer, timeout=_answer_seconds), ours)
        except GetTimeoutError:
            lines.append(f"node {node}: no answer within {_answer_seconds:.0f} s")
        except RayError as error:
            lines.append(f"node {node}: segtasks cannot be imported there ({one_line(error)[-200:]})")
    if lines:
        listing = "\n".join(f"  {line}" for line in lines)
        raise ConfigError(
            f"the cluster's nodes do not run what runs here, and would write other rows:\n{listing}\nInstall the same versions there."
        )
