"""An HTTP proxy in front of a store that answers some calls wrongly: 500, 503, nothing at all, half a body, 403, or loses the
answer of a call that the store has done. Which calls is drawn from a seed, one draw a call."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["500", "503", "hang", "truncated", "lost", "lost 500", "403", "passed"]
WEATHER: tuple[Fault, ...] = ("500", "503", "hang", "truncated", "lost", "lost 500")
_TITLES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "lost 500": "InternalError"}


@dataclass
class Proxy:
    """`choose(method, path, draw)` says what happens to a call; `draw` is its own number in [0, 1)."""

    upstream: str
    choose: Callable[[str, str, float], Fault]
    seed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    done: list[tuple[str, str, int]] = field(default_factory=list)  # method, path without query, status: what the store did
    url: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def next_fault(self, method: str, path: str) -> Fault:
        with self._lock:
            fault = self.choose(method, path, self._random.random())
            self.faults[fault] += 1
            return fault

    def created(self) -> Counter[str]:
        """How often the store made each object anew."""
        with self._lock:
            return Counter(path for method, path, status in self.done if method == "PUT" and status == 200)

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        proxy = self

        class Handler(_Handler):
            site = proxy

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="faulty-proxy", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            server.shutdown()
            server.server_close()
            thread.join(10)

    def wait_until_stopped(self) -> None:
        self._stopped.wait(600)

    def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        parts = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        with self._lock:
            self.done.append((method, target.split("?")[0], answer.status))
        return answer.status, answer.getheaders(), data


class _Handler(BaseHTTPRequestHandler):
    site: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 120

    def _serve(self) -> None:
        body = self._body()
        fault = self.site.next_fault(self.command, self.path)
        if fault == "hang":
            self.site.wait_until_stopped()
            self._drop()
        elif fault in ("500", "503", "403"):
            self._refuse(fault)
        else:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection", "transfer-encoding")
            }
            try:
                status, answer_headers, data = self.site.forward(self.command, self.path, headers, body)
            except OSError:  # the store is down
                self._drop()
                return
            if fault == "lost":
                self._drop()
            elif fault == "lost 500":
                self._refuse(fault)
            else:
                self._answer(status, answer_headers, data, cut=fault == "truncated")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        data = b"".join(parts)
        self.headers["Content-Length"] = str(len(data))
        return data

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        length = {name.lower(): value for name, value in headers}.get("content-length") if self.command == "HEAD" else str(len(data))
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._drop()

    def _refuse(self, fault: str) -> None:
        code = fault.removeprefix("lost ")
        page = f'<?xml version="1.0"?><Error><Code>{_TITLES[fault]}</Code><Message>from the tests</Message></Error>'.encode()
        self._answer(int(code), [("Content-Type", "application/xml")], page, cut=False)

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


def some(share: float, faults: tuple[Fault, ...] = WEATHER) -> Callable[[str, str, float], Fault]:
    """That share of all calls, each fault as often as the others."""

    def choose(method: str, path: str, draw: float) -> Fault:
        return faults[int(draw / share * len(faults))] if draw < share else "passed"

    return choose
