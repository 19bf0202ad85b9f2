"""The imagined environment of a finished run for other people's RL code: Gymnasium's interfaces.

    envs = imagined.make("runs/tiny", num_envs=16)     # gymnasium.vector.VectorEnv
    env = imagined.make_one("runs/tiny")               # gymnasium.Env

A step is a chunk of K actions, as policies act here; pixels come from the world model, success from
the reward model. Episodes begin with real first frames.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly.opened import open_run, readable
from wmpo_jax.assembly.real import RealEnvironment
from wmpo_jax.assembly.seeds import BLOCK, seed_range
from wmpo_jax.assembly.trained import ImaginedParts, TrainedRun
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.paths import resolve

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ModuleNotFoundError as missing:
    raise UserError(
        "Imagination as an environment needs gymnasium: pip install 'wmpo_jax[gymnasium]'."
    ) from missing

Step = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class Imagination:
    """The compiled world of a run, N episodes at once, each with a clock of its own.

    Args:
      dynamics_of: makes the imagined environment of `parts` inside jit.
      parts: pytree of arrays that it is made of.
      first_frames: observations of the first frames of starts, int32 [N].
      starts: how many there are, numbered from 0.
      chunk, action_dim, horizon, image_size, instructions: of the task.
    """

    def __init__(
        self,
        dynamics_of: Callable[[Any], ImaginedDynamics],
        parts: Any,
        first_frames: Callable[[np.ndarray], Observation],
        starts: int,
        *,
        chunk: int,
        action_dim: int,
        horizon: int,
        image_size: int,
        instructions: tuple[str, ...],
    ) -> None:
        self.starts, self.chunks, self.instructions = starts, horizon // chunk, instructions
        self._parts, self._first_frames = parts, first_frames
        # The units of the policies of this project: 1 % and 99 % quantiles of the demonstrations
        # are -1 and 1.
        self.action_space = spaces.Box(-1.0, 1.0, (chunk, action_dim), np.float32)
        pixels = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        words = spaces.Discrete(len(instructions))
        self.observation_space = spaces.Dict({"image": pixels, "instruction": words})

        def begin_one(parts: Any, seen: Observation, key: jax.Array) -> Any:
            alone = jax.tree.map(lambda leaf: leaf[None], seen)
            return dynamics_of(parts).reset(alone, key)[0]

        def step_one(parts: Any, state: Any, actions_KA: jax.Array, key: jax.Array) -> Any:
            state, seen, outcome = dynamics_of(parts).step(state, actions_KA[None], key)
            return state, seen.frame_BHWC[0], outcome.success_BK[0]

        def replaced(ended_N: jax.Array, new: Any, old: Any) -> Any:
            shaped = lambda leaf: ended_N.reshape(-1, *[1] * (leaf.ndim - 1))  # noqa: E731
            return jax.tree.map(lambda a, b: jnp.where(shaped(a), a, b), new, old)

        self._begin = jax.jit(jax.vmap(begin_one, in_axes=(None, 0, 0)))
        self._step = jax.jit(jax.vmap(step_one, in_axes=(None, 0, 0, 0)))
        self._replace = jax.jit(replaced)

    def begin(self, starts_N: np.ndarray, seed: int) -> tuple[Any, Observation]:
        """(state, first observations) of the numbered starts."""
        seen = self._first_frames(starts_N)
        keys = jax.random.split(jax.random.key(seed), len(starts_N))
        return self._begin(self._parts, seen, keys), seen

    def step(self, state: Any, actions_NKA: np.ndarray, seed: int) -> tuple[Any, Any, np.ndarray]:
        """(state, frame_NHWC uint8, success_NK bool) after a chunk; `seed` samples the frames."""
        keys = jax.random.split(jax.random.key(seed), len(actions_NKA))
        state, frames, success = self._step(self._parts, state, jnp.asarray(actions_NKA), keys)
        return state, np.asarray(frames), np.asarray(success)

    def replace(self, ended_N: np.ndarray, new: Any, old: Any) -> Any:
        """The rows of `new` where an episode has ended."""
        return self._replace(jnp.asarray(ended_N), new, old)


class ImaginedVectorEnv(VectorEnv):
    """`num_envs` episodes; one that has ended begins anew with the next step (NEXT_STEP).

    Observations: `image` uint8 [N, H, W, 3] and `instruction` int64 [N]. Actions: float32
    [N, K, A] in [-1, 1]. Reward: 1 in the step in which the task is solved, which terminates; an
    episode of the task's horizon is truncated. infos: `success` bool [N], `steps` int [N], actions
    executed until then or until success.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, imagination: Imagination, num_envs: int) -> None:
        self._world, self.num_envs = imagination, num_envs
        self.instructions = imagination.instructions
        self.single_observation_space = imagination.observation_space
        self.single_action_space = imagination.action_space
        self.observation_space = batch_space(imagination.observation_space, num_envs)
        self.action_space = batch_space(imagination.action_space, num_envs)
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins all episodes, at starts drawn from `seed`."""
        super().reset(seed=seed)
        self._state, seen = self._world.begin(self._draw_starts(), self._draw_seed())
        self._frames, self._words = _frames_and_words(seen)
        self._chunks = np.zeros(self.num_envs, int)
        self._ended = np.zeros(self.num_envs, bool)
        return self._seen(), {}

    def step(self, actions: np.ndarray) -> Step:
        """A chunk in every episode; the chunk of one that begins anew is ignored."""
        assert self._state is not None, "call reset first"
        chunk = self.single_action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
        actions_NKA = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        fresh_N = self._ended
        state, frames, success_NK = self._world.step(self._state, actions_NKA, self._draw_seed())
        self._state, self._frames = state, frames
        self._chunks = self._chunks + 1
        solved_N = success_NK.any(axis=1) & ~fresh_N
        if fresh_N.any():
            self._begin_anew(fresh_N)
        truncated_N = (self._chunks >= self._world.chunks) & ~solved_N
        self._ended = solved_N | truncated_N
        last = np.where(solved_N, success_NK.argmax(axis=1) + 1, chunk)
        steps_N = np.where(fresh_N, 0, (self._chunks - 1) * chunk + last)
        infos = {"success": solved_N, "steps": steps_N}
        return self._seen(), solved_N.astype(np.float64), solved_N, truncated_N, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest frames, uint8 [H, W, 3] each."""
        return tuple(self._frames)

    def _begin_anew(self, fresh_N: np.ndarray) -> None:
        state, seen = self._world.begin(self._draw_starts(), self._draw_seed())
        self._state = self._world.replace(fresh_N, state, self._state)
        frames, words = _frames_and_words(seen)
        self._frames = np.where(fresh_N[:, None, None, None], frames, self._frames)
        self._words = np.where(fresh_N, words, self._words)
        self._chunks = np.where(fresh_N, 0, self._chunks)

    def _seen(self) -> dict[str, np.ndarray]:
        return {"image": self._frames.copy(), "instruction": self._words.copy()}

    def _draw_starts(self) -> np.ndarray:
        return self.np_random.integers(self._world.starts, size=self.num_envs, dtype=np.int32)

    def _draw_seed(self) -> int:
        return int(self.np_random.integers(2**31))


class ImaginedEnv(gymnasium.Env):
    """One episode at a time; see `ImaginedVectorEnv`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  # a frame per chunk

    def __init__(self, imagination: Imagination, render_mode: str | None = None) -> None:
        self._one = ImaginedVectorEnv(imagination, 1)
        self.instructions = imagination.instructions
        self.observation_space = imagination.observation_space
        self.action_space = imagination.action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode, at a start drawn from `seed`."""
        super().reset(seed=seed)
        seen, _ = self._one.reset(seed=int(self.np_random.integers(2**31)))
        return self._first(seen), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """A chunk of actions, float32 [K, A]."""
        seen, reward, solved, truncated, infos = self._one.step(np.asarray(action)[None])
        info = {name: value[0].item() for name, value in infos.items()}
        return self._first(seen), float(reward[0]), bool(solved[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The newest frame, uint8 [H, W, 3]; None without a render mode."""
        return self._one.render()[0] if self.render_mode else None

    def _first(self, seen: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"image": seen["image"][0], "instruction": np.int64(seen["instruction"][0])}


def make(workdir: str | Path, num_envs: int = 8) -> ImaginedVectorEnv:
    """The imagined environment of a finished run, `num_envs` episodes at once.

    Raises:
      UserError: not a workdir, or its world model or reward model has not been trained.
    """
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}: at least one episode is played.")
    return ImaginedVectorEnv(_open(workdir), num_envs)


def make_one(workdir: str | Path, render_mode: str | None = None) -> ImaginedEnv:
    """As `make`, one episode at a time."""
    return ImaginedEnv(_open(workdir), render_mode)


def _open(workdir: str | Path) -> Imagination:
    path = resolve(workdir)
    with readable(path):
        run = open_run(path)
        parts, min_step, task = run.imagined_parts(), run.config.reward.min_step, run.task
        first_frames, starts = _starts(run)

    def dynamics_of(parts: ImaginedParts) -> ImaginedDynamics:
        return ImaginedDynamics(*parts, min_step)

    return Imagination(
        dynamics_of,
        parts,
        first_frames,
        starts,
        chunk=task.chunk,
        action_dim=task.action_dim,
        horizon=task.horizon,
        image_size=task.image_size,
        instructions=task.instructions,
    )


def _starts(run: TrainedRun) -> tuple[Callable[[np.ndarray], Observation], int]:
    """First frames that the run may train on: MJX draws new ones, others are those of rollouts."""
    if not isinstance(run.task, HostEnvironment | RecordedTask):
        look = RealEnvironment(run.task, run.mesh, run.workdir.path).first_frames()
        seeds = seed_range("imagination", run.config.seed, 0, BLOCK)
        return lambda starts_N: look(seeds[starts_N]), BLOCK
    names = ("frames_BTHWC", "instruction_id_B")
    stored = load_arrays(run.workdir.data("rollouts") / "episodes.npz", "collect", names)
    first_BHWC, words_B = stored["frames_BTHWC"][:, 0], stored["instruction_id_B"]

    def kept(starts_N: np.ndarray) -> Observation:
        return Observation(
            frame_BHWC=jnp.asarray(first_BHWC[starts_N]),
            instruction_id_B=jnp.asarray(words_B[starts_N]),
        )

    return kept, len(words_B)


def _frames_and_words(seen: Observation) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(seen.frame_BHWC), np.asarray(seen.instruction_id_B).astype(np.int64)
