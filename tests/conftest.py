"""What every test runs under: no telemetry, one thread a process, and a line that says what was skipped and why."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Spawned processes and Ray workers import functions that test modules define.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a busy machine gives its workers no time, and limits in seconds strike
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # as the Ray engine has it, also where a test imports ray first

# The suite tries the same examples each time, so that it says something about the change; `make fuzz` tries new ones, and keeps what fails.
settings.register_profile("suite", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def skip_summary(reasons: list[str]) -> str:
    """`"14 real data absent, 2 needs chromium"`: reasons are counted by what stands before their colon."""
    counts = Counter(reason.removeprefix("Skipped: ").split(":")[0] for reason in reasons)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    slow = [item for item in terminalreporter.stats.get("deselected", []) if item.get_closest_marker("slow")]
    parts = [skip_summary(reasons)] if reasons else []
    if slow:
        parts.append(f"{len(slow)} slow (make test-all runs them)")
    terminalreporter.write_line(f"skipped: {', '.join(parts) or 'nothing'}")
