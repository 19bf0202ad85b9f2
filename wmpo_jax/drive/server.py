"""The web server of the driving page: three files, three calls, one process.

It is meant for one person on one machine. The page asks nothing of any other host, and no other
page can speak to it: calls must be JSON (browsers then ask for leave, which is never given) and
name a host that the server was told to be.
"""

import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from wmpo_jax.runtime.errors import UserError

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/play.js": ("play.js", "text/javascript; charset=utf-8"),
}
CALLS = ("about", "reset", "step")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 10_000  # bytes; a request is a handful of numbers
IDLE_SECONDS = 60  # a connection that says nothing is closed
POLICY = "default-src 'self'; img-src 'self' data:"


class Driver(Protocol):
    """What is served; `drive.session.Session` is one."""

    def about(self) -> dict[str, Any]: ...

    def reset(self, request: dict[str, Any]) -> dict[str, Any]: ...

    def step(self, request: dict[str, Any]) -> dict[str, Any]: ...


class PlayServer(ThreadingHTTPServer):
    """Listens from the beginning and serves `driver`, once it is set, one call at a time.

    Args:
      host, port: where to listen; port 0 takes any free one.

    Raises:
      UserError: the address is in use or not of this machine.
    """

    daemon_threads = True
    driver: Driver

    def __init__(self, host: str, port: int) -> None:
        self.turn = threading.Lock()
        self.only_local = host in LOOPBACK
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Nothing can be served on {host}:{port} ({error}): "
                "choose another --port or --host."
            ) from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; others are shown with their traceback."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PlayServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/about":
            self._call("about")
        elif path in FILES:
            name, kind = FILES[path]
            self._send(HTTPStatus.OK, (PAGE / name).read_bytes(), kind)
        else:
            self._fail(HTTPStatus.NOT_FOUND, f"There is no {path} here.")

    def do_POST(self) -> None:
        name = self.path.removeprefix("/")
        if name not in CALLS or name == "about":
            self._fail(HTTPStatus.NOT_FOUND, f"There is no call {self.path}.")
        else:
            self._call(name)

    def _call(self, name: str) -> None:
        if self.server.only_local and self._host() not in LOOPBACK:
            self._fail(HTTPStatus.FORBIDDEN, "This page answers on 127.0.0.1 and localhost only.")
            return
        try:
            arguments = () if name == "about" else (self._request(),)
            with self.server.turn:
                answer = getattr(self.server.driver, name)(*arguments)
        except UserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._send(HTTPStatus.OK, json.dumps(answer).encode(), "application/json")

    def _host(self) -> str:
        """The name by which the browser has found us, without the port."""
        host = self.headers.get("Host", "")
        return host.partition("]")[0].strip("[") if host[:1] == "[" else host.partition(":")[0]

    def _request(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise UserError("A call needs the content type application/json.")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise UserError(f"A call needs a Content-Length of at most {MAX_BODY} bytes.")
        try:
            request = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise UserError(f"The body of a call is not JSON: {error}.") from error
        if not isinstance(request, dict):
            raise UserError("The body of a call is a JSON object.")
        return request

    def _fail(self, status: HTTPStatus, message: str) -> None:
        # What is left of the body must not be read as the next request.
        self.close_connection = True
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent: a line per chunk would bury what the terminal should say."""
