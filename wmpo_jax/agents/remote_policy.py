"""A policy that someone else serves with openpi's websocket protocol, asked over the network."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.protocols import Observation, PolicyOutput
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.extras import require
from wmpo_jax.runtime.messages import MOST_BYTES, pack, unpack

ANSWER_SECONDS = 600  # a server may compile at its first observation
OPEN_SECONDS = 20
_PURPOSE = "Asking a served policy"


class RemotePolicy:
    """`algorithm.protocols.Policy` on the host; actions are in the robot's own units.

    Every episode has a connection of its own, because a served policy may remember what it saw on
    one; `begin` opens them anew.

    Args:
      address: `ws://host:port`, or `host:port`.
      token: sent as openpi-client sends its api_key; "" for none.
      instructions: of the environment, which `instruction_id_B` points into.
      chunk, action_dim: what the environment executes.
    """

    def __init__(
        self,
        address: str,
        token: str,
        instructions: Sequence[str],
        chunk: int,
        action_dim: int,
    ) -> None:
        self._address = address if "://" in address else f"ws://{address}"
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._instructions, self._shape = instructions, (chunk, action_dim)
        self._connections: list[Any] = []
        self._open = contextlib.ExitStack()
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="remote policy")
        self.metadata: dict[str, Any] = {}

    def begin(self, episodes: int) -> None:
        """Opens a connection for each of the next episodes.

        Raises:
          UserError: nobody answers there, the token is refused, or it is another protocol.
        """
        self.close()
        self._connections = list(self._threads.map(lambda _: self._connect(), range(episodes)))

    def close(self) -> None:
        """Ends all connections."""
        self._open.close()
        self._connections = []

    def __call__(self, observation: Observation, key: Any) -> PolicyOutput:
        """The first `chunk` actions of every answer; tokens and log-probabilities are zeros."""
        del key  # the server's own
        frames_BHWC = np.asarray(observation.frame_BHWC)
        words_B = [self._instructions[row] for row in np.asarray(observation.instruction_id_B)]
        asked = zip(self._connections, frames_BHWC, words_B, strict=True)
        actions_BKA = np.stack(list(self._threads.map(lambda one: self._ask(*one), asked)))
        zeros_BKA = np.zeros(actions_BKA.shape)
        return PolicyOutput(
            tokens_BKA=jnp.asarray(zeros_BKA, jnp.int32),
            actions_BKA=jnp.asarray(actions_BKA, jnp.float32),
            log_probs_BKA=jnp.asarray(zeros_BKA, jnp.float32),
        )

    def _connect(self) -> Any:
        client = require("websockets.sync.client", "serve", _PURPOSE)
        exceptions = require("websockets.exceptions", "serve", _PURPOSE)
        try:
            connection = self._open.enter_context(
                client.connect(
                    self._address,
                    compression=None,
                    max_size=MOST_BYTES,
                    additional_headers=self._headers,
                    open_timeout=OPEN_SECONDS,
                )
            )
            metadata = connection.recv(timeout=OPEN_SECONDS)
        except exceptions.InvalidStatus as error:
            status = error.response.status_code
            reason = "wants another token" if status in (401, 403) else "is no policy server"
            raise UserError(
                f"The server at {self._address} {reason} (HTTP {status}): correct the environment "
                "variable WMPO_TOKEN, or remote.address."
            ) from error
        except (OSError, ValueError, TimeoutError, exceptions.WebSocketException) as error:
            raise UserError(
                f"No policy answers at remote.address = {self._address} "
                f"({str(error)[:100] or type(error).__name__}): start the server, or correct it."
            ) from error
        found = unpack(metadata) if isinstance(metadata, bytes) else None
        if not isinstance(found, dict):
            raise UserError(
                f"The server at {self._address} does not begin with its metadata as msgpack: it "
                "is of another protocol than openpi's."
            )
        self.metadata = found
        return connection

    def _ask(self, connection: Any, frame_HWC: np.ndarray, words: str) -> np.ndarray:
        """float32 actions_KA of one episode."""
        exceptions = require("websockets.exceptions", "serve", _PURPOSE)
        try:
            connection.send(pack({"observation/image": frame_HWC, "prompt": words}))
            answer = connection.recv(timeout=ANSWER_SECONDS)
        except (OSError, TimeoutError, exceptions.WebSocketException) as error:
            raise UserError(
                f"The server at {self._address} has gone silent "
                f"({str(error)[:100] or type(error).__name__}): start it again and repeat."
            ) from error
        if isinstance(answer, str):
            lines = answer.strip().splitlines() or ["no reason given"]
            raise UserError(f"The server at {self._address} refuses: {lines[-1][:300]}")
        return self._checked(unpack(answer))

    def _checked(self, answer: Any) -> np.ndarray:
        actions = np.asarray(answer.get("actions", ()) if isinstance(answer, dict) else ())
        chunk, action_dim = self._shape
        fits = actions.ndim == 2 and len(actions) >= chunk and actions.shape[1] == action_dim
        if not fits or actions.dtype.kind not in "fiu" or not np.isfinite(actions).all():
            raise UserError(
                f"The server at {self._address} answers with actions of shape {actions.shape} and "
                f"type {actions.dtype}, and the environment takes at least {chunk} of "
                f"{action_dim} finite numbers: serve a policy for this robot."
            )
        return actions[:chunk].astype(np.float32)
