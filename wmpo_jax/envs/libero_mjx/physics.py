"""One control step of LIBERO in MJX: robosuite's loop of controller and physics, jitted.

    simulate = jax.jit(jax.vmap(physics.step, in_axes=(0, 0)))
    states = simulate(states, actions_BA)

The order of things inside a step is robosuite's (environments/base.py `step`), down to what success
is computed from: positions and contacts at the beginning of the last of the 25 substeps.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from mujoco import mjx

from wmpo_jax.envs.libero_mjx import controller
from wmpo_jax.envs.tabletop.batching import in_safe_batches, safe_batch
from wmpo_jax.runtime.errors import UserError

SUBSTEPS = 25  # of 2 ms: control at 20 Hz
ARM = 7  # joints of the arm: the first of the model
ON_TOP = 0.03  # meters between two middles, seen from above (LIBERO, ObjectState.check_ontop)
_SITE = "gripper0_grip_site"


class Start(struct.PyTreeNode):
    """Where an episode begins: what LIBERO in C is in after its settle steps.

    Attributes:
      qpos, qvel, warmstart: of all joints; float32.
      body_pos, body_quat: where bodies stand in their parents; a reset moves fixtures.
      memory: of the controller.
    """

    qpos: jax.Array
    qvel: jax.Array
    warmstart: jax.Array
    body_pos: jax.Array
    body_quat: jax.Array
    memory: controller.Memory


class State(struct.PyTreeNode):
    """One world between two control steps.

    Attributes:
      start: as in `Start`, moved on.
      hand, thing: positions of the grip site and of the goal's thing, meters [3], one substep ago.
      success: bool, latched.
      invalid: bool, latched: something became infinite or NaN, and the world is frozen before it.
      step: int32, control steps executed.
    """

    start: Start
    hand: jax.Array
    thing: jax.Array
    success: jax.Array
    invalid: jax.Array
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class Goal:
    """`On(thing, target)`, the goal of all tasks of libero_spatial.

    Attributes:
      thing, target: bodies, by name.
      thing_geoms, target_geoms: the geoms whose contact counts, by name.
    """

    thing: str
    target: str
    thing_geoms: tuple[str, ...]
    target_geoms: tuple[str, ...]


class Physics:
    """`start`, `step` of one world of one scene. Callers vmap and jit."""

    def __init__(self, model: mujoco.MjModel, goal: Goal) -> None:
        if abs(model.opt.timestep * SUBSTEPS - 0.05) > 1e-9:
            raise UserError(f"the scene steps by {model.opt.timestep} s; LIBERO's do by 0.002 s.")
        here = jax.local_devices()[0]
        self._model = mjx.put_model(model, here, impl="jax")
        self._data = mjx.make_data(model, here, impl="jax")
        self._site = model.site(_SITE).id
        self._hand_body = int(model.site_bodyid[self._site])
        self._low, self._high = jnp.array(model.actuator_ctrlrange.T, jnp.float32)
        self._thing, self._target = model.body(goal.thing).id, model.body(goal.target).id
        self._is_thing = jnp.array(_mask(model, goal.thing_geoms))
        self._is_target = jnp.array(_mask(model, goal.target_geoms))
        self.step = in_safe_batches(self._step, safe_batch(model.nv))

    def begin(self, start: Start) -> State:
        """The world at `start`."""
        data = mjx.kinematics(self._placed(start), self._at(start))
        false = jnp.zeros((), bool)
        return State(
            start=start,
            hand=data.site_xpos[self._site],
            thing=data.xpos[self._thing],
            success=false,
            invalid=false,
            step=jnp.zeros((), jnp.int32),
        )

    def _step(self, state: State, action_A: jax.Array) -> State:
        """One control step of float32 `action_A` [7], LIBERO's own: gripper -1 open, +1 closed."""
        start = state.start
        model = self._placed(start)

        def substep(carry: Any, number: jax.Array) -> tuple[Any, None]:
            data, memory = carry
            data = mjx.fwd_velocity(model, mjx.fwd_position(model, data))
            arm = self._arm(model, data)
            aimed = controller.aim(memory, arm, action_A)
            memory = jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), aimed, memory)
            memory = memory.replace(fingers=controller.grip(memory.fingers, action_A[6]))
            data = data.replace(ctrl=self._control(controller.torques(memory, arm), memory))
            data = mjx.fwd_acceleration(model, mjx.fwd_actuation(model, data))
            return (mjx.euler(model, mjx.solve(model, data)), memory), None

        with jax.numpy_rank_promotion("allow"):  # MJX's own code needs it
            (data, memory), _ = jax.lax.scan(
                substep, (self._at(start), start.memory), jnp.arange(SUBSTEPS)
            )
        finite = jnp.isfinite(data.qpos).all() & jnp.isfinite(data.qvel).all()
        moved = start.replace(
            qpos=data.qpos, qvel=data.qvel, warmstart=data.qacc_warmstart, memory=memory
        )
        alive = finite & ~state.invalid
        new = State(
            start=moved,
            hand=data.site_xpos[self._site],
            thing=data.xpos[self._thing],
            success=state.success | (alive & self._solved(data)),
            invalid=~alive,
            step=state.step + 1,
        )
        frozen = state.replace(invalid=~alive, step=state.step + 1)
        return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, frozen)

    def _placed(self, start: Start) -> mjx.Model:
        return self._model.replace(body_pos=start.body_pos, body_quat=start.body_quat)

    def _at(self, start: Start) -> mjx.Data:
        return self._data.replace(qpos=start.qpos, qvel=start.qvel, qacc_warmstart=start.warmstart)

    def _arm(self, model: mjx.Model, data: mjx.Data) -> controller.Arm:
        position = data.site_xpos[self._site]
        linear, angular = mjx.jac(model, data, position, self._hand_body)
        return controller.Arm(
            position=position,
            rotation=data.site_xmat[self._site],
            jacobian=jnp.concatenate([linear[:ARM].T, angular[:ARM].T]),
            mass=mjx.full_m(model, data)[:ARM, :ARM],
            bias=data.qfrc_bias[:ARM],
            angle=data.qpos[:ARM],
            speed=data.qvel[:ARM],
        )

    def _control(self, torques: jax.Array, memory: controller.Memory) -> jax.Array:
        low, high = self._low[ARM:], self._high[ARM:]
        fingers = (low + high) / 2 + (high - low) / 2 * memory.fingers
        arm = jnp.clip(torques, self._low[:ARM], self._high[:ARM])
        return jnp.concatenate([arm, fingers])

    def _solved(self, data: mjx.Data) -> jax.Array:
        """bool: the target is not above the thing, touches it, and is close under it."""
        thing, target = data.xpos[self._thing], data.xpos[self._target]
        contact = data._impl.contact
        one, other = contact.geom[:, 0], contact.geom[:, 1]
        together = (self._is_thing[one] & self._is_target[other]) | (
            self._is_thing[other] & self._is_target[one]
        )
        touching = jnp.any(together & (contact.dist < contact.includemargin))
        near = jnp.linalg.norm((thing - target)[:2]) < ON_TOP
        return touching & near & (target[2] <= thing[2])


def _mask(model: mujoco.MjModel, names: tuple[str, ...]) -> np.ndarray:
    """bool [G]: which geoms are called so."""
    mask = np.zeros(model.ngeom, bool)
    mask[[model.geom(name).id for name in names]] = True
    return mask
