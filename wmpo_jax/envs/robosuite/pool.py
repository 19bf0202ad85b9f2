"""Worker processes that simulate side by side, and what happens when one of them dies.

Episodes live in slots; slot b belongs to worker b mod W as long as the wave lasts. A worker that
dies, or does not answer in time, is replaced, and its episodes are repeated from their starts with
the actions they had so far: physics is deterministic, so nobody notices but the report.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from wmpo_jax.envs.robosuite import environment
from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.runtime.errors import UserError

RENDERERS = ("egl", "osmesa")  # in the order of trying
MAX_REPLACEMENTS = 3  # of workers in a row for the same work: then it is not bad luck

_USER_ERROR = f"{UserError.__module__}.{UserError.__qualname__}: "  # as a traceback ends

Request = tuple[str, tuple[Any, ...]]  # method, see worker.Desk, arguments


@dataclasses.dataclass(frozen=True)
class Start:
    """A stored initial state of a task (`init` >= 0), or objects placed anew from `seed`."""

    task: int
    init: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds after which a worker counts as stuck; generous, because busy machines are slow."""

    startup: float = 600.0
    reset: float = 600.0  # may build another task's model
    step: float = 30.0  # per action


class WorkerDied(Exception):
    """The process ended or did not answer; the message is what it wrote last, and how it ended."""


class Worker:
    """One process and the line to it."""

    def __init__(self, protocol: EvaluationProtocol, renderer: str, timeout: float) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        ours, theirs = socket.socketpair()
        command = environment.command(protocol.worker, str(theirs.fileno()))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            env=environment.variables(renderer),
        )
        theirs.close()
        self._line = Connection(ours.detach())
        try:
            self._post(protocol)
            self.receive(timeout)
        except (WorkerDied, UserError):
            self.close()
            raise

    def send(self, requests: Sequence[Request]) -> None:
        """Asks for the results of `requests`; WorkerDied when nobody listens."""
        self._post(list(requests))

    def receive(self, timeout: float) -> Any:
        """The answer to what was sent last.

        Raises:
          WorkerDied: no answer within `timeout` seconds, or none any more.
          UserError: the worker's own.
        """
        try:
            if self._line.poll(timeout):
                return self._line.recv()
        except (OSError, EOFError) as error:
            raise self._death() from error
        raise WorkerDied(f"no answer within {timeout:.0f} s")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._line.close()
        self._log.close()

    def _post(self, message: Any) -> None:
        try:
            self._line.send(message)
        except OSError as error:
            raise self._death() from error

    def _death(self) -> WorkerDied | UserError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)  # a traceback is written after the line is closed
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else ""
        if last.startswith(_USER_ERROR):
            return UserError(last.removeprefix(_USER_ERROR))
        ended = _ending(self.process.poll())
        return WorkerDied(f"{ended}, its last line: {last}" if last else f"{ended} without a word")


def _ending(status: int | None) -> str:
    """How a process ended, by its exit status."""
    if status is None:
        return "it closed its connection"
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        cause = " (usually the system, when memory runs out)" if -status == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-status).name}{cause}"
    return f"ended by signal {-status}"


class WorkerPool:
    """`workers` processes for the episodes of one protocol.

    Attributes:
      renderer: "egl" or "osmesa"; what MUJOCO_GL says, or else the first that works.
      replaced: workers that died or were stuck, so far.
      repeated: episodes that were repeated for it, so far.
    """

    def __init__(
        self, protocol: EvaluationProtocol, workers: int, timeouts: Timeouts | None = None
    ) -> None:
        """Raises UserError when no renderer can draw, or what simulates is not installed."""
        self._protocol = protocol
        self._timeouts = timeouts or Timeouts()
        self.replaced = self.repeated = 0
        self._starts: list[Start] = []
        self._history: list[list[np.ndarray]] = []
        first = self._first_worker()
        self._workers = [first, *(self._worker() for _ in range(workers - 1))]

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Begins a wave of episodes, forgetting the last: frames uint8 [B, H, W, 3]."""
        self._starts = list(starts)
        self._history = [[] for _ in starts]
        jobs: list[Request] = [self._opening(slot) for slot in range(len(starts))]
        return np.stack(self._everywhere(jobs, self._timeouts.reset))

    def step(self, actions_BKA: np.ndarray, draw: str) -> list[dict[str, Any]]:
        """A chunk of every episode of the wave; see `simulator.Simulator.step`."""
        jobs: list[Request] = [
            ("step", (slot, actions, draw)) for slot, actions in enumerate(actions_BKA)
        ]
        results = self._everywhere(jobs, self._timeouts.step * actions_BKA.shape[1])
        for past, actions in zip(self._history, actions_BKA, strict=True):
            past.append(actions)
        return results

    def states(self) -> list[dict[str, np.ndarray]]:
        """See `simulator.Simulator.state`."""
        return self.ask("state")

    def ask(self, name: str) -> list[Any]:
        """The simulator's method `name` for each episode of the wave."""
        jobs: list[Request] = [(name, (slot,)) for slot in range(len(self._starts))]
        return self._everywhere(jobs, self._timeouts.reset)

    def draw(self, qpos_B: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures of the wave with its joints moved to `qpos_B`: uint8 [B, H, W, 3]."""
        jobs: list[Request] = [("draw", (slot, qpos)) for slot, qpos in enumerate(qpos_B)]
        return np.stack(self._everywhere(jobs, self._timeouts.step))

    def record(
        self,
        starts: Sequence[Start],
        actor: str,
        noise: float,
        steps: int,
        on_batch: Callable[[int], None],
    ) -> list[dict[str, Any]]:
        """Whole scripted episodes, one per worker at a time; see `worker.Desk.record`."""
        self._starts, self._history = [], []
        timeout = self._timeouts.reset + self._timeouts.step * steps
        results = []
        for first in range(0, len(starts), len(self._workers)):
            jobs: list[Request] = [
                ("record", (*dataclasses.astuple(start), actor, noise, steps))
                for start in starts[first : first + len(self._workers)]
            ]
            results += self._everywhere(jobs, timeout)
            on_batch(len(jobs))
        return results

    def report(self) -> dict[str, Any]:
        """For result files."""
        return {
            "workers": len(self._workers),
            "renderer": self.renderer,
            "replaced_workers": self.replaced,
            "repeated_episodes": self.repeated,
        }

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _everywhere(self, jobs: Sequence[Request], timeout: float) -> list[Any]:
        """Results of the jobs in their order; job b is done by worker b mod W."""
        count = len(self._workers)
        shares = [list(range(place, len(jobs), count)) for place in range(count)]
        lost: dict[int, WorkerDied] = {}
        for place, share in enumerate(shares):
            try:
                self._workers[place].send([jobs[b] for b in share])
            except WorkerDied as death:
                lost[place] = death
        results: list[Any] = [None] * len(jobs)
        for place, share in enumerate(shares):
            try:
                if place in lost:
                    raise lost[place]
                done = self._workers[place].receive(timeout * max(len(share), 1))
            except WorkerDied as death:
                done = self._again(place, share, jobs, timeout, death)
            for b, result in zip(share, done, strict=True):
                results[b] = result
        return results

    def _again(
        self,
        place: int,
        share: list[int],
        jobs: Sequence[Request],
        timeout: float,
        death: Exception,
    ) -> list[Any]:
        """The share of a dead worker, done by a new one that first catches up."""
        for _ in range(MAX_REPLACEMENTS):
            self._workers[place].close()
            self.replaced += 1
            self.repeated += len(share)
            past = [request for b in share for request in self._past(b)]
            seconds = self._timeouts.reset * (1 + len(past)) + timeout * len(share)
            try:
                self._workers[place] = self._worker()
                self._workers[place].send([*past, *(jobs[b] for b in share)])
                return self._workers[place].receive(seconds)[len(past) :]
            except WorkerDied as again:
                death = again
        raise UserError(
            f"A worker of {self._protocol.suite} died {MAX_REPLACEMENTS + 1} times at the same "
            f"work ({death}): cure that and run again, from where the run was."
        )

    def _past(self, slot: int) -> list[Request]:
        """What brings a new worker's episode to where the old one's was."""
        if not self._starts:
            return []
        chunks = [("step", (slot, actions, "last")) for actions in self._history[slot]]
        return [self._opening(slot), *chunks]

    def _opening(self, slot: int) -> Request:
        return ("reset", (slot, *dataclasses.astuple(self._starts[slot])))

    def _first_worker(self) -> Worker:
        """Finds out which renderer works."""
        chosen = os.environ.get("MUJOCO_GL", "")
        failures = []
        for renderer in (chosen,) if chosen in RENDERERS else RENDERERS:
            self.renderer = renderer
            try:
                return self._worker()
            except WorkerDied as death:
                failures.append(f"{renderer}: {death}")
        raise UserError(
            f"The simulator can draw with no renderer ({'; '.join(failures)}): apt-get install "
            "libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6, or set MUJOCO_GL to one that works."
        )

    def _worker(self) -> Worker:
        return Worker(self._protocol, self.renderer, self._timeouts.startup)
