"""The Ray engine. The only folder that imports ray."""

from segtasks.engines.ray.engine import RayEngine

__all__ = ["RayEngine"]
