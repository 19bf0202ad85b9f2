"""openpi's websocket protocol: metadata on connect, then an observation in and a chunk out.

A wrong observation is answered by a text frame with one sentence, which openpi's clients raise, and
the connection stays; only a failure of our own closes it (code 1011), as openpi's server does.
"""

import asyncio
import contextlib
import hmac
import http
import signal
import socket
import sys
import time
import traceback
from typing import Any

import numpy as np
import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.messages import MOST_BYTES, pack, unpack
from wmpo_jax.serving import observations
from wmpo_jax.serving.batching import Batcher
from wmpo_jax.serving.policies import ServedPolicy

HEALTH = "/healthz"


def claimed(host: str, port: int) -> socket.socket:
    """A socket that holds the address and does not listen yet: nobody connects while we compile.

    Raises:
      UserError: the address is in use or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Nothing can be served on {host}:{port} ({error}): choose another --port or --host."
        ) from error
    return taken


class PolicyServer:
    """Serves one policy.

    Args:
      batch: most requests that are computed at once.
      token: what clients must send as `Authorization: Api-Key ...`; "" lets everyone ask.
    """

    def __init__(self, policy: ServedPolicy, batch: int, token: str = "") -> None:
        self._policy, self._token = policy, token
        self._batcher = Batcher(policy, batch)
        self._metadata = policy.about | {
            "image_keys": list(observations.IMAGE_KEYS),
            "prompt_key": observations.PROMPT_KEY,
        }

    def warm_up(self) -> None:
        """Compiles everything that a client who sends images of the policy's size needs."""
        self._batcher.warm_up()

    async def run(self, taken: socket.socket) -> None:
        """Answers on a socket of `claimed` until SIGTERM or cancellation."""
        stop = asyncio.Event()
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            # Of threads other than the main one, where a test may run this.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        computing = asyncio.create_task(self._batcher.run())
        listening = serve(
            self._answer,
            sock=taken,
            compression=None,
            max_size=MOST_BYTES,
            process_request=self._admit,
            origins=[None],  # programs send none; pages of browsers do, and may not ask
        )
        try:
            async with listening:
                await stop.wait()
        finally:
            computing.cancel()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == HEALTH:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        sent = request.headers.get("Authorization", "").encode("utf-8", "replace")
        if self._token and not hmac.compare_digest(sent, f"Api-Key {self._token}".encode()):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "This server wants its token as the client's api_key.\n",
            )
        return None

    async def _answer(self, connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await connection.send(pack(self._metadata))
            before: float | None = None
            while True:
                message = await connection.recv()
                started = time.monotonic()
                try:
                    answer = await self._actions(message, before)
                except UserError as error:
                    await connection.send(str(error))
                    continue
                except Exception:
                    traceback.print_exc()
                    await connection.send(
                        "The policy failed; the terminal of the server shows why."
                    )
                    await connection.close(CloseCode.INTERNAL_ERROR, "see the frame before")
                    return
                await connection.send(pack(answer))
                before = 1000 * (time.monotonic() - started)

    async def _actions(self, message: str | bytes, before: float | None) -> dict[str, Any]:
        """The answer to one observation; `before`: milliseconds of the request before."""
        if isinstance(message, str):
            raise UserError(
                "The message is text: observations are packed as openpi-client 0.1 packs them "
                "(msgpack with NumPy arrays)."
            )
        seen = observations.read(unpack(message), self._policy.default_prompt)
        started = time.monotonic()
        actions_KA = await self._batcher.actions(seen)
        if not np.isfinite(actions_KA).all():
            raise UserError("The policy gave actions that are not finite: nothing is sent.")
        timing = {"infer_ms": 1000 * (time.monotonic() - started)}
        if before is not None:
            timing["prev_total_ms"] = before
        return {"actions": actions_KA, "server_timing": timing}


def serve_forever(server: PolicyServer, taken: socket.socket) -> None:
    """`PolicyServer.run` until Ctrl-C or SIGTERM."""
    host, port = taken.getsockname()[:2]
    print(f"serving on ws://{host}:{port} (Ctrl-C ends)", file=sys.stderr, flush=True)
    asyncio.run(server.run(taken))
