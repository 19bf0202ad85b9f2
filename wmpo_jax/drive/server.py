"""The web server of the driving page: three files, three calls, one process.

It is meant for one person on one machine. The page asks nothing of any other host, and no other
page can use it: calls must be JSON (browsers then ask for permission, which is never given), name a
host that the server listens on, and come from a page that the server itself has sent.
"""

import contextlib
import json
import math
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

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
CLIENTS = 64  # connections that are answered at once, a thread each; more wait in the backlog
IDLE_SECONDS = 10  # a connection that sends nothing is closed
POLICY = "default-src 'self'; img-src 'self' data:"


class Driver(Protocol):
    """What is served; `drive.session.Session` is one."""

    def about(self) -> dict[str, Any]: ...

    def reset(self, request: dict[str, Any]) -> dict[str, Any]: ...

    def step(self, request: dict[str, Any]) -> dict[str, Any]: ...


class PlayServer(HTTPServer):
    """Listens from the beginning and serves `driver`, once it is set, one call at a time.

    Args:
      host, port: where to listen; port 0 takes any free one.

    Raises:
      UserError: the address is in use or not of this machine.
    """

    request_queue_size = 256  # the backlog; the standard library's 5 resets browsers
    driver: Driver

    def __init__(self, host: str, port: int) -> None:
        self.turn = threading.Lock()
        self.only_local = host in LOOPBACK
        self._threads = ThreadPoolExecutor(CLIENTS, thread_name_prefix="play")
        self._deadlines: dict[Any, float] = {}  # of the open connections
        self._guard = threading.Lock()
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Every connection to a thread of the pool; the socket is closed when it is done."""
        self.no_deadline(request)
        self._threads.submit(self._answer, request, client_address)

    def expect(self, request: Any) -> None:
        """The client has IDLE_SECONDS from now on to send the whole of its next request."""
        with self._guard:
            self._deadlines[request] = time.monotonic() + IDLE_SECONDS

    def no_deadline(self, request: Any) -> None:
        """The client is the one that waits: for a thread, or for its answer."""
        with self._guard:
            self._deadlines[request] = math.inf

    def service_actions(self) -> None:
        """Hangs up on clients that are late, however evenly they send their few bytes."""
        with self._guard:
            late = [r for r, end in self._deadlines.items() if end < time.monotonic()]
            for request in late:
                _hang_up(request)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            with self._guard:
                self._deadlines.pop(request, None)
            self.shutdown_request(request)

    def server_close(self) -> None:
        """Ends the threads, too, which wait for what their clients may still send."""
        super().server_close()
        with self._guard:
            for request in self._deadlines:
                _hang_up(request)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; others are shown with their traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PlayServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def handle_one_request(self) -> None:
        self.server.expect(self.connection)
        super().handle_one_request()

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
        reason = self._not_ours()
        if reason:
            self._fail(HTTPStatus.FORBIDDEN, reason)
            return
        try:
            arguments = () if name == "about" else (self._request(),)
            self.server.no_deadline(self.connection)
            with self.server.turn:
                answer = getattr(self.server.driver, name)(*arguments)
            body = json.dumps(answer).encode()
        except UserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except OSError:
            raise  # of the client, while it sent its body
        except Exception:
            traceback.print_exc()
            reason = "The call failed; the terminal of `play` shows why."
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, reason)
        else:
            self._send(HTTPStatus.OK, body, "application/json")

    def _not_ours(self) -> str:
        """Why the call does not come from our own page; "" if it does.

        A program that is no browser sends no Origin, and may call.
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            return "A call names exactly one Host."
        if self.server.only_local and _host_name(hosts[0]) not in LOOPBACK:
            return "This page answers on 127.0.0.1 and localhost only."
        origins = self.headers.get_all("Origin", [])
        if any(origin.partition("://")[2].lower() != hosts[0].lower() for origin in origins):
            return "A call comes from the page of this server, not from another."
        return ""

    def _request(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise UserError("A call needs the content type application/json.")
        lengths = self.headers.get_all("Content-Length", [])
        digits = lengths[0] if len(lengths) == 1 and "Transfer-Encoding" not in self.headers else ""
        short = digits.isascii() and digits.isdecimal() and len(digits) < 9
        if not short or int(digits) > MAX_BODY:
            raise UserError(f"A call needs a Content-Length of at most {MAX_BODY} bytes.")
        try:
            request = json.loads(self.rfile.read(int(digits)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"The body of a call is not JSON: {str(error)[:100]}.") from error
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


def _hang_up(connection: socket.socket) -> None:
    """Wakes the thread that reads from it."""
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)


def _host_name(host: str) -> str:
    """Of a Host header, without the port; "" of one that makes no sense."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
