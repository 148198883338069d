"""Names of flow runs: what runs on what, from the run's parameters alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.runtime import flow_run
from pydantic import BaseModel


def tail(url: str, parts: int = 2) -> str:
    """The last parts of a path or URL, enough to know it by: `s3://bucket/a/run/data@3` -> `run/data@3`. Never a user or password."""
    _, is_url, rest = url.partition("://")
    if not is_url:
        return "/".join(url.rstrip("/").split("/")[-parts:])
    host, *path = rest.split("/")
    return "/".join([host.rpartition("@")[2], *path][-parts:])


def run_name(template: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """A `flow_run_name`: `template` gets the configuration as plain values."""

    def name() -> str:
        config = flow_run.parameters.get("config", {})
        return template(config.model_dump() if isinstance(config, BaseModel) else dict(config))

    return name


def plugin_name(value: Any) -> str:
    return value if isinstance(value, str) else str(value["name"])
