"""What sits at the end of the tool: nothing but its shape, or a suction cup."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import mujoco
from flax import struct
from mujoco import mjx

from wmpo_jax.envs.tabletop import scene


class Hand(Protocol):
    """Reads the part of an action that is not motion; `memory` is any pytree of arrays."""

    def start(self) -> Any:
        """The memory of a hand that has not done anything yet."""
        ...

    def act(
        self, model: mjx.Model, data: mjx.Data, memory: Any, action_A: jax.Array
    ) -> tuple[mjx.Model, mjx.Data, Any]:
        """Called at the start of a control step, with `data` at the poses that were shown."""
        ...


class BareTip:
    """A tip without a will of its own."""

    def start(self) -> tuple[()]:
        return ()

    def act(
        self, model: mjx.Model, data: mjx.Data, memory: Any, action_A: jax.Array
    ) -> tuple[mjx.Model, mjx.Data, Any]:
        del action_A
        return model, data, memory


class Grip(struct.PyTreeNode):
    """What a suction cup remembers.

    Attributes:
      closed: bool, it sucks.
      held: int32 index of the block that hangs on it, -1 for none.
      pose: the block's pose in the tool's frame when it was caught: x y z, then quaternion.
    """

    closed: jax.Array
    held: jax.Array
    pose: jax.Array


class Suction:
    """The fourth entry of an action closes the cup (> 0) or opens it; a closed cup catches.

    A caught block is welded to the tool in the pose in which it was caught.

    Args:
      model: the scene, with a weld from the tool to each of `blocks`, in that order, and nothing
        else among its equalities.
      blocks: names of the bodies (and their free joints) that can be caught.
      radius: meters between the axes of cup and block within which it catches.
      gap: meters between the tool's center and that of the block below it within which it catches.
    """

    def __init__(
        self, model: mujoco.MjModel, blocks: tuple[str, ...], radius: float, gap: float
    ) -> None:
        self._blocks = jnp.array([scene.free_qpos(model, name) for name in blocks])
        self._radius = radius
        self._gap = gap

    def start(self) -> Grip:
        return Grip(
            closed=jnp.zeros((), bool),
            held=jnp.full((), -1, jnp.int32),
            pose=jnp.array([0.0, 0, 0, 1, 0, 0, 0]),
        )

    def act(
        self, model: mjx.Model, data: mjx.Data, memory: Grip, action_A: jax.Array
    ) -> tuple[mjx.Model, mjx.Data, Grip]:
        poses = data.qpos[self._blocks]
        poses = poses.at[:, :3].add(-data.qpos[:3])
        grip = self._grasp(memory, poses, action_A[3] > 0)
        # An mjEQ_WELD keeps, in eq_data: anchor (3), relative position (3), quaternion (4), scale.
        model = model.replace(eq_data=model.eq_data.at[:, :3].set(0.0).at[:, 3:10].set(grip.pose))
        held = jnp.arange(self._blocks.shape[0]) == grip.held
        return model, data.replace(eq_active=held), grip

    def _grasp(self, memory: Grip, poses: jax.Array, closed: jax.Array) -> Grip:
        """The grip after a command, given the poses [N, 7] of the blocks in the tool's frame."""
        distance = jnp.linalg.norm(poses[:, :2], axis=-1)
        reachable = (distance < self._radius) & (-poses[:, 2] < self._gap)
        nearest = jnp.argmin(jnp.where(reachable, distance, jnp.inf)).astype(jnp.int32)
        catches = closed & (memory.held < 0) & reachable.any()
        return Grip(
            closed=closed,
            held=jnp.where(closed, jnp.where(catches, nearest, memory.held), -1),
            pose=jnp.where(catches, poses[nearest], memory.pose),
        )
