"""Servers for tests: MLflow's own, and a proxy before it that refuses or loses requests."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from empty_store import copy_empty_store
from sandbox import Command

LOGIN_PAGE: Final = "<!DOCTYPE html><html><body><form>Please log in</form></body></html>"


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server on a SQLite store; it answers inside the context and is stopped afterwards."""
    if not (folder / "server.db").exists():
        copy_empty_store(folder / "server.db")
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Command(["-m", "mlflow", "server", *options], folder, environment) as server:

        def answers() -> bool:
            try:
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
            except OSError:
                return False

        server.until(answers)
        yield


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one MLflow server for all tests; each uses experiments of its own name."""
    port = free_port()
    with mlflow_server(tmp_path_factory.mktemp("server"), port):
        yield port


@contextmanager
def text_server(text: str, login: str) -> Iterator[str]:
    """A web server that gives a text to who sends this `user:password`; gives its host and port."""
    wanted = "Basic " + base64.b64encode(login.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers.get("Authorization") == wanted else 401)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Request:
    """A request that a proxy received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def login(self) -> str:
        """`user:password` of Basic authentication; empty without."""
        kind, _, coded = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(coded).decode() if kind == "Basic" else ""


@dataclass(frozen=True)
class Answer:
    """What a proxy does with a request instead of passing it on.

    Attributes:
        status: of the answer; 0: the connection is closed without one.
        body, headers: of the answer.
        after: pass the request on first, and lose the server's answer.
    """

    status: int = 0
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False


Rule = Callable[[Request], Answer | None]


class Proxy:
    """A reverse proxy before a server, or a server by itself where the rule answers every request.

    Args:
        rule: an answer, or None to pass the request on.
        port: of the server.

    Attributes:
        rule: may be replaced at any time.
        requests: every request, in order.
        address: of the proxy.
    """

    def __init__(self, rule: Rule = lambda _: None, port: int = 0) -> None:
        self.rule, self.port = rule, port
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # an answer is sent at once

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                request = Request(self.command, self.path, dict(self.headers.items()), self._body())
                proxy.requests.append(request)
                answer = proxy.rule(request)
                if answer is None or answer.after:
                    status, headers, body = proxy._passed_on(request)
                if answer is not None:
                    status, headers, body = answer.status, list(answer.headers.items()), answer.body.encode()
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.wfile.flush()

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _passed_on(self, request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = ("host", "content-length", "transfer-encoding", "connection", "authorization")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in own}
        server.request(request.method, request.path, request.body, headers)
        answer = server.getresponse()
        body = answer.read()
        server.close()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in (*own, "date", "server")]
        return answer.status, kept, body
