"""The environment around a tabletop task: MJX physics, the ray-cast picture, random play."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import mujoco
from flax import struct
from mujoco import mjx

from wmpo_jax.envs.protocol import EnvState, Witness
from wmpo_jax.envs.tabletop import motion
from wmpo_jax.envs.tabletop.batching import in_safe_batches, safe_batch
from wmpo_jax.envs.tabletop.camera import Camera
from wmpo_jax.envs.tabletop.hand import Hand

# Rays per pixel along each axis: smooth edges show positions to less than a pixel.
SUPERSAMPLE = 2


class Physics(struct.PyTreeNode):
    """The part of `mjx.Data` that has to survive a control step, for one world.

    Attributes:
      qpos, qvel: generalized positions and velocities.
      target: position the tool is commanded to go to, meters [3].
      warmstart: accelerations that the constraint solver starts from.
      mocap_pos: positions of the bodies that nothing moves, meters [M, 3].
      geom_xpos, geom_xmat: poses of the geoms in the world [G, 3] and [G, 3, 3], at `qpos`.
    """

    qpos: jax.Array
    qvel: jax.Array
    target: jax.Array
    warmstart: jax.Array
    mocap_pos: jax.Array
    geom_xpos: jax.Array
    geom_xmat: jax.Array

    @property
    def tool(self) -> jax.Array:
        """Position of the tool's center, meters [3]."""
        return self.qpos[:3]


class Layout(struct.PyTreeNode):
    """A start: positions and the instruction."""

    qpos: jax.Array
    mocap_pos: jax.Array
    instruction_id: jax.Array


class Task(Protocol):
    """What differs between tabletop tasks.

    Attributes:
      model: the compiled scene, with a camera called "table" and the tool first in `qpos`.
      reach: meters that a full action moves the commanded target.
      substeps: physics steps in a control step.
      low, high: corners of the tool's workspace, meters, three each.
      toys: ids of the geoms that play should touch.
      hand: what the tool carries; it reads what an action holds beyond motion.
    """

    name: str
    action_dim: int
    horizon: int
    chunk: int
    model: mujoco.MjModel
    reach: float
    substeps: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    toys: tuple[int, ...]

    @property
    def instructions(self) -> tuple[str, ...]: ...

    @property
    def hand(self) -> Hand: ...

    def layout(self, key: jax.Array) -> Layout: ...

    def solved(self, state: EnvState) -> jax.Array:
        """bool, whether this state is a success."""
        ...

    def colors(self, state: EnvState) -> jax.Array | None:
        """RGBA of every geom [G, 4], or None for the colors of the model."""
        ...

    def expert(self, state: EnvState, bias: float) -> jax.Array: ...

    def miss(self, state: EnvState) -> jax.Array:
        """Meters between where things are and where they should be in what decides about success.

        Infinite in states in which nothing is decided; the least of an episode tells how closely
        it succeeded or failed.
        """
        ...


class TabletopEnv:
    """A `Task` on the table, answering `wmpo_jax.envs.protocol.Environment`."""

    def __init__(self, task: Task, image_size: int) -> None:
        self.task = task
        self.name = task.name
        self.instructions = task.instructions
        self.action_dim = task.action_dim
        self.horizon = task.horizon
        self.chunk = task.chunk
        self.image_size = image_size
        self._camera = Camera.from_model(task.model, "table", image_size, image_size, SUPERSAMPLE)
        here = jax.local_devices()[0]  # MJX's own choice may be a device of another host
        self._model = mjx.put_model(task.model, here, impl="jax")
        self._data = mjx.make_data(task.model, here, impl="jax")
        self._advance_safely = in_safe_batches(self._advance, safe_batch(task.model.nv))
        self._low = jnp.array(task.low)
        self._high = jnp.array(task.high)

    def reset(self, seed: jax.Array) -> EnvState:
        layout = self.task.layout(jax.random.key(seed))
        data = self._data.replace(qpos=layout.qpos, mocap_pos=layout.mocap_pos)
        return EnvState(
            physics=self._keep(mjx.kinematics(self._model, data), layout.qpos[:3]),
            instruction_id=layout.instruction_id,
            success=jnp.zeros((), bool),
            invalid=jnp.zeros((), bool),
            step=jnp.zeros((), jnp.int32),
            memory=self.task.hand.start(),
        )

    def step(self, state: EnvState, action_A: jax.Array) -> EnvState:
        after = self._advance_safely(state, jnp.clip(action_A, -1.0, 1.0))
        finite = jnp.isfinite(after.physics.qpos).all() & jnp.isfinite(after.physics.qvel).all()
        alive = finite & ~state.invalid
        after = jax.tree.map(lambda new, old: jnp.where(alive, new, old), after, state)
        return after.replace(
            success=state.success | (alive & self.task.solved(after)),
            invalid=~alive,
            step=state.step + 1,
        )

    def render(self, state: EnvState) -> jax.Array:
        physics = state.physics
        return self._camera.render(physics.geom_xpos, physics.geom_xmat, self.task.colors(state))

    def witness(self, state: EnvState) -> Witness:
        physics = state.physics
        return Witness(
            geom_HW=self._camera.segment(physics.geom_xpos, physics.geom_xmat),
            miss=self.task.miss(state),
        )

    @property
    def geom_names(self) -> tuple[str, ...]:
        model = self.task.model
        return tuple(model.geom(index).name for index in range(model.ngeom))

    def expert(self, state: EnvState, key: jax.Array, bias: float = 0.0) -> jax.Array:
        del key  # see Environment.expert
        return self.task.expert(state, bias)

    def play(self, state: EnvState, episode_key: jax.Array) -> jax.Array:
        way_key, noise_key = jax.random.split(episode_key)
        way_key = jax.random.fold_in(way_key, state.step // motion.PLAY_SEGMENT)
        noise_key = jax.random.fold_in(noise_key, state.step)
        point_key, switch_key = jax.random.split(way_key)
        toys = state.physics.geom_xpos[jnp.array(self.task.toys)]
        point = motion.waypoint(point_key, self._low, self._high, toys)
        switch = motion.random_switch(switch_key)
        action = jnp.append(motion.steer(state.physics.tool, point, self.task.reach), switch)
        action = action[: self.action_dim]
        noise = motion.PLAY_NOISE * jax.random.normal(noise_key, action.shape)
        return jnp.clip(action + noise, -1.0, 1.0)

    def _advance(self, state: EnvState, action_A: jax.Array) -> EnvState:
        """One control step of MJX: the target jumps, the tool follows."""
        physics = state.physics
        move = self.task.reach * action_A[:3]
        target = physics.target.at[: move.shape[0]].add(move).clip(self._low, self._high)
        data = self._data.replace(
            qpos=physics.qpos,
            qvel=physics.qvel,
            qacc_warmstart=physics.warmstart,
            mocap_pos=physics.mocap_pos,
            ctrl=target,
        )
        model, data, memory = self.task.hand.act(self._model, data, state.memory, action_A)

        def substep(data: Any, _: None) -> tuple[Any, None]:
            return mjx.step(model, data), None

        with jax.numpy_rank_promotion("allow"):  # MJX's own code needs it
            data, _ = jax.lax.scan(substep, data, None, length=self.task.substeps)
            # mjx.step leaves the poses of the geoms one substep behind qpos.
            data = mjx.kinematics(model, data)
        return state.replace(physics=self._keep(data, target), memory=memory)

    def _keep(self, data: mjx.Data, target: jax.Array) -> Physics:
        return Physics(
            qpos=data.qpos,
            qvel=data.qvel,
            target=target,
            warmstart=data.qacc_warmstart,
            mocap_pos=data.mocap_pos,
            geom_xpos=data.geom_xpos,
            geom_xmat=data.geom_xmat,
        )
