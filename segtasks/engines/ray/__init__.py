"""The Ray engine. The only folder that imports ray."""

import os

# A call that comes after `ray.shutdown`, from a thread that a signal has left behind, must not start another cluster.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

from segtasks.engines.ray.engine import RayEngine

__all__ = ["RayEngine"]
