"""A server in a process of its own on 127.0.0.1: started, waited for with a deadline, killed by its pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ready_seconds = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Server:
    """One child process in its own group. `ready` is asked until it says True, the process dies, or a minute is over."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None) -> None:
        self._command, self._log, self._ready = list(command), log, ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None, "it runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                env=self._environment,
                start_new_session=True,
            )
        stop = time.monotonic() + ready_seconds
        while not self._is_ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > stop:
                self.kill()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._command[0]} {'ended with ' + str(code) if code is not None else 'is not ready'}:\n{tail}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False

    def kill(self) -> None:
        """`kill -9` of the process and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
