"""robosuite's OSC_POSE and the Panda hand's gripper in JAX, as LIBERO uses them.

Source: robosuite 1.4.0, controllers/osc.py, utils/control_utils.py and
models/grippers/panda_gripper.py; Khatib 1987 for the equations. tests/envs/libero_mjx compares
torques with robosuite's own.
"""

import jax
import jax.numpy as jnp
from flax import struct

REACH = 0.05  # meters that a full action asks for
TURN = 0.5  # radians, likewise
STIFFNESS = 150.0  # 1/s^2, for the hand's position and orientation
DAMPING = 2.0 * STIFFNESS**0.5
POSTURE_STIFFNESS = 10.0  # 1/s^2, for the arm's posture where the hand does not mind
POSTURE_DAMPING = 2.0 * POSTURE_STIFFNESS**0.5
GRIPPER_SPEED = 0.01  # of [-1, 1], per physics step


class Arm(struct.PyTreeNode):
    """What the controller reads of the arm's seven joints and the hand, at one moment.

    Attributes:
      position: of the grip site, meters [3].
      rotation: of the same, [3, 3], from its frame to the world's.
      jacobian: [6, 7] of the site: meters, then radians, per radian of a joint.
      mass: joint-space inertia [7, 7], kg m^2.
      bias: torques of gravity, Coriolis and centrifugal forces [7], Nm.
      angle, speed: of the joints [7], rad and rad/s.
    """

    position: jax.Array
    rotation: jax.Array
    jacobian: jax.Array
    mass: jax.Array
    bias: jax.Array
    angle: jax.Array
    speed: jax.Array


class Memory(struct.PyTreeNode):
    """What the controller remembers.

    Attributes:
      position, rotation: where the hand should be, meters [3] and [3, 3].
      posture: joint angles it falls back to [7], rad.
      fingers: commanded opening of both fingers in [-1, 1], [2].
    """

    position: jax.Array
    rotation: jax.Array
    posture: jax.Array
    fingers: jax.Array


def aim(memory: Memory, arm: Arm, action_A: jax.Array) -> Memory:
    """The goal of one control step; where no turn is asked for, the old orientation remains.

    Args:
      action_A: float32 [7] in LIBERO's own units: [-1, 1], gripper -1 open, +1 closed.
    """
    action = jnp.clip(action_A, -1.0, 1.0)
    turned = rotation(TURN * action[3:6]) @ arm.rotation
    return memory.replace(
        position=arm.position + REACH * action[:3],
        rotation=jnp.where(jnp.any(action[3:6] != 0.0), turned, memory.rotation),
    )


def torques(memory: Memory, arm: Arm) -> jax.Array:
    """Of the seven joints, Nm [7], before the actuators' limits."""
    velocity = arm.jacobian @ arm.speed
    away = jnp.cross(arm.rotation.T, memory.rotation.T).sum(0) / 2
    push = STIFFNESS * (memory.position - arm.position) - DAMPING * velocity[:3]
    twist = STIFFNESS * away - DAMPING * velocity[3:]
    # M = L L^T and the Jacobian in coordinates in which the arm's inertia is one: J L^-T.
    lower = jnp.linalg.cholesky(arm.mass)
    white = jax.scipy.linalg.solve_triangular(lower, arm.jacobian.T, lower=True).T
    force = jnp.linalg.solve(white[:3] @ white[:3].T, push)
    moment = jnp.linalg.solve(white[3:] @ white[3:].T, twist)
    posture = arm.mass @ (
        POSTURE_STIFFNESS * (memory.posture - arm.angle) - POSTURE_DAMPING * arm.speed
    )
    # N^T posture, with N = I - M^-1 J^T Lambda J: what of it the hand does not feel. Lambda itself
    # is too ill-conditioned for float32 where the arm is stretched; a basis of its range is not.
    basis = jnp.linalg.qr(white.T)[0]
    whitened = jax.scipy.linalg.solve_triangular(lower, posture, lower=True)
    free = posture - lower @ (basis @ (basis.T @ whitened))
    wrench = jnp.concatenate([force, moment])
    return arm.jacobian.T @ wrench + arm.bias + free


def grip(fingers: jax.Array, gripper: jax.Array) -> jax.Array:
    """Commanded opening [2] after one physics step; `gripper` > 0 closes."""
    return jnp.clip(fingers + jnp.array([-1.0, 1.0]) * GRIPPER_SPEED * jnp.sign(gripper), -1.0, 1.0)


def rotation(vector: jax.Array) -> jax.Array:
    """The matrix [3, 3] that turns about `vector` [3] by its length, rad (Rodrigues)."""
    angle2 = vector @ vector
    safe = jnp.where(angle2 > 0, angle2, 1.0)
    angle = jnp.sqrt(safe)
    x, y, z = vector
    cross = jnp.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned = jnp.sin(angle) / angle * cross + (1.0 - jnp.cos(angle)) / safe * (cross @ cross)
    return jnp.eye(3) + jnp.where(angle2 > 0, turned, 0.0)
