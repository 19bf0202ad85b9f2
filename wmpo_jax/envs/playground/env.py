"""An environment of MuJoCo Playground behind `envs.protocol.Environment`."""

import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.envs import quiet  # noqa: F401  # MJX prints when it is first imported
from wmpo_jax.envs.playground.camera import SceneCamera
from wmpo_jax.envs.playground.rules import REWARD, rule_for
from wmpo_jax.envs.playground.scripts import SCRIPTS
from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop.batching import in_safe_batches, safe_batch
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.extras import require

PREFIX = "playground/"
CANDIDATES, AHEAD = 16, 5  # of the planner: actions that it tries, and steps that each is held
PLAY_SEGMENT = 5  # steps between two actions that random play moves between


class PlaygroundEnv:
    """One of Playground's environments, simulated by MJX in JAX on every device.

    Actions are Playground's own, [-1, 1]. The demonstrator is one of `scripts.SCRIPTS`, else a
    planner: of random actions it takes the one after which Playground's reward is highest; `bias`
    means nothing to it.

    Args:
      name: `playground/PandaPickCube`.
      options: config.playground, see `rules.Rule`.

    Raises:
      UserError: Playground is not installed or has no such environment, it cannot be simulated by
        MJX in JAX, or it is not declared when it is solved.
    """

    def __init__(self, name: str, image_size: int, options: Mapping[str, Any]) -> None:
        environment = name.removeprefix(PREFIX)
        self.name, self.image_size = name, image_size
        playground = _registry(environment)
        self._rule = rule = rule_for(environment, options)
        self._env = _load(playground, environment, rule.seconds)
        self._script = SCRIPTS.get(environment)
        self.instructions = (rule.instruction,)
        self.action_dim, self.chunk = self._env.action_size, rule.chunk
        wanted = rule.horizon or int(self._env._config.get("episode_length", 1000))
        self.horizon = wanted // rule.chunk * rule.chunk
        if not self.horizon:
            raise UserError(
                f"playground.horizon = {wanted} is less than a chunk of {rule.chunk} actions: "
                "raise it."
            )
        self._camera = SceneCamera(self._env.mj_model, rule.camera, image_size)
        # Programs share what has been traced: each of them has a reset, steps and pictures.
        self._playground_reset = jax.jit(self._call_reset)
        self._playground_step = jax.jit(self._call_step)
        self._picture = jax.jit(self._draw)
        start = jax.eval_shape(self._playground_reset, _key(0))
        self._template = jax.eval_shape(
            self._playground_step, start, jax.ShapeDtypeStruct((self.action_dim,), jnp.float32)
        )
        known = [REWARD, *self._template.metrics]
        if rule.metric not in known:
            raise UserError(
                f"{name} has no metric {rule.metric!r}: set playground.metric to one of "
                f"{', '.join(known)}."
            )
        # MJX on a CPU is wrong in batches of some sizes; see `batching`.
        self._advance = in_safe_batches(self._step_env, safe_batch(self._env.mjx_model.nv))

    def reset(self, seed: jax.Array) -> EnvState:
        physics = self._shaped(self._playground_reset(_key(seed)))
        no = jnp.zeros((), bool)
        return EnvState(
            physics=physics,
            instruction_id=jnp.zeros((), jnp.int32),
            success=no,
            invalid=no,
            step=jnp.zeros((), jnp.int32),
            memory=no,  # whether Playground has ended the episode
        )

    def step(self, state: EnvState, action_A: jax.Array) -> EnvState:
        physics = self._advance(state.physics, jnp.clip(action_A, -1.0, 1.0))
        data = physics.data
        finite = jnp.isfinite(data.qpos).all() & jnp.isfinite(data.qvel).all()
        invalid = state.invalid | (~finite & ~state.memory)
        moves = finite & ~state.memory & ~state.invalid
        physics = jax.tree.map(lambda new, old: jnp.where(moves, new, old), physics, state.physics)
        solved = moves & (self._measure(physics) >= self._rule.at_least)
        return state.replace(
            physics=physics,
            success=state.success | solved,
            invalid=invalid,
            step=state.step + 1,
            memory=state.memory | (moves & (physics.done > 0)),
        )

    def render(self, state: EnvState) -> jax.Array:
        return self._picture(state.physics.data)

    def expert(self, state: EnvState, key: jax.Array, bias: float = 0.0) -> jax.Array:
        if self._script:
            return self._script(self._env.mj_model, state.physics.data, bias)
        draw = jax.random.fold_in(key, state.step)
        tried_SA = jax.random.uniform(draw, (CANDIDATES, self.action_dim), minval=-1.0)
        tried_SA = tried_SA.at[0].set(0.0)

        def outcome(action_A: jax.Array) -> jax.Array:
            def ahead(physics: Any, _: None) -> tuple[Any, jax.Array]:
                physics = self._advance(physics, action_A)
                return physics, physics.reward

            return jax.lax.scan(ahead, state.physics, None, length=AHEAD)[1].sum()

        found_S = jnp.nan_to_num(jax.vmap(outcome)(tried_SA), nan=-jnp.inf)
        return tried_SA[jnp.argmax(found_S)]

    def play(self, state: EnvState, episode_key: jax.Array) -> jax.Array:
        segment, phase = state.step // PLAY_SEGMENT, state.step % PLAY_SEGMENT
        before, after = (
            jax.random.uniform(
                jax.random.fold_in(episode_key, segment + n), (self.action_dim,), minval=-1.0
            )
            for n in (0, 1)
        )
        return before + (after - before) * (phase / PLAY_SEGMENT)

    def _measure(self, physics: Any) -> jax.Array:
        metric = self._rule.metric
        return physics.reward if metric == REWARD else physics.metrics[metric]

    def _step_env(self, physics: Any, action_A: jax.Array) -> Any:
        return self._shaped(self._playground_step(physics, action_A))

    def _call_reset(self, key: jax.Array) -> Any:
        with jax.numpy_rank_promotion("allow"):  # Playground's own code needs it
            return _strong(self._env.reset(key))

    def _call_step(self, physics: Any, action_A: jax.Array) -> Any:
        # Playground's steps write into the dicts of the state that they are given.
        copied = jax.tree.map(lambda leaf: leaf, physics)
        with jax.numpy_rank_promotion("allow"):
            return _strong(self._env.step(copied, action_A))

    def _draw(self, data: Any) -> jax.Array:
        from mujoco import mjx

        with jax.numpy_rank_promotion("allow"):
            # mjx.step leaves the poses of the geoms one substep behind qpos; reset leaves none.
            data = mjx.kinematics(self._env.mjx_model, data)
        return self._camera.render(data)

    def _shaped(self, physics: Any) -> Any:
        """Leaves of the types that a step gives: a reset may have others."""
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), physics, self._template)


def _strong(physics: Any) -> Any:
    """Arrays for Python's numbers, of a type that is the same wherever they come from."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), physics)


def _key(seed: Any) -> jax.Array:
    """A key of the kind that Playground splits and keeps in its states."""
    return jax.random.PRNGKey(seed)


def _registry(environment: str) -> Any:
    """Playground's registry, which has this environment."""
    registry = require("mujoco_playground", "playground", "MuJoCo Playground").registry
    if environment not in registry.ALL_ENVS:
        raise UserError(
            f"MuJoCo Playground has no environment {environment[:60]!r}: choose from "
            f"{', '.join(registry.ALL_ENVS)}."
        )
    return registry


def _load(registry: Any, environment: str, seconds: float) -> Any:
    """Playground's environment for MJX in JAX; an action lasts `seconds` (0: as it says)."""
    usual = registry.get_default_config(environment)
    overrides: dict[str, Any] = {"impl": "jax"} if "impl" in usual else {}
    if seconds:
        if seconds < usual.sim_dt:
            raise UserError(
                f"playground.seconds = {seconds} is less than a step of its physics: set at least "
                f"{usual.sim_dt}."
            )
        overrides["ctrl_dt"] = seconds
    causes = OSError, subprocess.SubprocessError, ValueError, NotImplementedError, AttributeError
    try:
        return registry.load(environment, config_overrides=overrides)
    except causes as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"playground/{environment} cannot be loaded ({reason}): it does not fit the installed "
            "MuJoCo, or its robots are missing, which Playground clones from GitHub on first use."
        ) from error
