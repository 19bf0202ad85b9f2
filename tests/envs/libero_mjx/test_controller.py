"""OSC_POSE and the gripper in float32 against robosuite's own, substep by substep."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.envs.libero_mjx import controller
from wmpo_jax.envs.libero_mjx.physics import SUBSTEPS


@pytest.fixture
def arms(recorded):
    """What robosuite's controller read, float32, the substeps in front."""
    _, episode = recorded
    names = ("position", "rotation", "jacobian", "mass", "bias", "angle", "speed")
    return controller.Arm(**{n: jnp.array(episode[f"heard_{n}"], jnp.float32) for n in names})


def memories(episode, count):
    def repeated(name):
        return jnp.array(np.broadcast_to(episode[name], (count, *episode[name].shape)), jnp.float32)

    return controller.Memory(
        position=jnp.array(episode["heard_goal_position"], jnp.float32),
        rotation=jnp.array(episode["heard_goal_rotation"], jnp.float32),
        posture=repeated("posture"),
        fingers=repeated("fingers"),
    )


def test_torques_are_robosuites(recorded, arms):
    _, episode = recorded
    wanted = episode["heard_torques"]
    assert len(wanted) > 250 and np.abs(wanted).max() > 10
    found = jax.jit(jax.vmap(controller.torques))(memories(episode, len(wanted)), arms)
    # Of each joint's own range: a torque that passes through zero has no relative error.
    scale = np.abs(wanted).max(axis=0)
    np.testing.assert_array_less(np.abs(found - wanted) / scale, 1e-3)


def test_goals_are_robosuites(recorded, arms):
    """The old orientation stays where no turn is asked for."""
    _, episode = recorded
    actions_TA = jnp.array(episode["actions_TA"], jnp.float32)
    before = memories(episode, len(episode["heard_torques"]))
    first = jax.tree.map(lambda x: x[::SUBSTEPS], (before, arms))
    # What was wanted in the step before is what there is to remember.
    remembered = jax.tree.map(lambda x: jnp.concatenate([x[:1], x[:-1]]), first[0])
    found = jax.vmap(controller.aim)(remembered, first[1], actions_TA)
    np.testing.assert_allclose(found.position, first[0].position, atol=1e-6)
    np.testing.assert_allclose(found.rotation, first[0].rotation, atol=1e-5)


def test_fingers_are_robosuites(recorded):
    _, episode = recorded
    fingers = jnp.array(episode["fingers"], jnp.float32)
    for action, wanted in zip(episode["actions_TA"], episode["fingers_T2"], strict=True):
        for _ in range(SUBSTEPS):
            fingers = controller.grip(fingers, action[6])
        np.testing.assert_allclose(fingers, wanted, atol=1e-5)
    assert np.ptp(episode["fingers_T2"]) > 0.5


def test_no_turn_is_the_identity():
    np.testing.assert_array_equal(controller.rotation(jnp.zeros(3)), np.eye(3))
    quarter = controller.rotation(jnp.array([0.0, 0.0, jnp.pi / 2]))
    np.testing.assert_allclose(quarter @ jnp.array([1.0, 0.0, 0.0]), [0, 1, 0], atol=1e-6)


def robosuite_torques(memory, arm):
    """Khatib's equations as robosuite writes them, float64, with inverses."""
    freed = np.linalg.inv(arm.mass) @ arm.jacobian.T
    velocity = arm.jacobian @ arm.speed
    away = 0.5 * np.cross(arm.rotation.T, memory.rotation.T).sum(0)
    push = controller.STIFFNESS * (memory.position - arm.position)
    push = push - controller.DAMPING * velocity[:3]
    twist = controller.STIFFNESS * away - controller.DAMPING * velocity[3:]
    weights = [
        np.linalg.pinv(arm.jacobian[rows] @ freed[:, rows]) for rows in (slice(3), slice(3, 6))
    ]
    wrench = np.concatenate([weights[0] @ push, weights[1] @ twist])
    null = np.eye(7) - freed @ np.linalg.pinv(arm.jacobian @ freed) @ arm.jacobian
    posture = controller.POSTURE_STIFFNESS * (memory.posture - arm.angle)
    posture = arm.mass @ (posture - controller.POSTURE_DAMPING * arm.speed)
    return arm.jacobian.T @ wrench + arm.bias + null.T @ posture


def test_a_stretched_arm_keeps_its_posture():
    """Where moving and turning are nearly one, the hand's inertia is ill-conditioned."""
    rng = np.random.default_rng(0)
    jacobian: Any = rng.normal(size=(6, 7))
    jacobian[5] = jacobian[0] + 1e-3 * rng.normal(size=7)
    root = np.tril(rng.normal(size=(7, 7))) + 3 * np.eye(7)
    fields: dict[str, Any] = {
        "position": np.zeros(3),
        "rotation": np.eye(3),
        "jacobian": jacobian,
        "mass": root @ root.T,
        "bias": rng.normal(size=7),
        "angle": rng.normal(size=7),
        "speed": 0.1 * rng.normal(size=7),
    }
    arm = controller.Arm(**fields)
    wishes: dict[str, Any] = {
        "position": 0.02 * rng.normal(size=3),
        "rotation": np.asarray(controller.rotation(jnp.array([0.0, 0.1, 0.05])), float),
        "posture": np.zeros(7),
        "fingers": np.zeros(2),
    }
    memory = controller.Memory(**wishes)
    inertia = jacobian @ np.linalg.inv(arm.mass) @ jacobian.T
    assert np.linalg.cond(inertia) > 1e6
    wanted = robosuite_torques(memory, arm)
    single = jax.tree.map(lambda x: jnp.array(x, jnp.float32), (memory, arm))
    found = controller.torques(*single)
    np.testing.assert_array_less(np.abs(found - wanted), 1e-3 * np.abs(wanted).max())
