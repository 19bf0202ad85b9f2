"""Scripted motion through LIBERO's own controller: a pick-and-place, and play without a goal.

Both read the true state of the simulation, as nobody at test time may. Actions are [7] in [-1, 1]
with gripper 1 = open, 0 = closed.
"""

from typing import Any

import numpy as np

REACH = 0.05  # meters that a full action asks for
NEAR = 0.015  # meters from a waypoint at which it counts as reached
HOVER = 0.12  # meters above things at which the hand travels
GRIP_STEPS = 10  # control steps that the fingers need from end to end, and two more
FINGER_OPENING = 0.04  # meters, half the widest
BELOW_TOP = 0.02  # meters below an object's top at which it is grasped
DROP = 0.06  # meters above the target at which it is let go

PLAY_SEGMENT = 8  # control steps between two waypoints of play
PLAY_SPREAD = 0.08  # meters, standard deviation of a waypoint around an object
PLAY_HEIGHT = 0.25  # meters above an object, the highest waypoint
PLAY_NOISE = 0.2  # action units


def steer(position: np.ndarray, goal: np.ndarray, gripper: float) -> np.ndarray:
    """The action that moves the hand straight toward `goal`, meters [3]."""
    move = np.clip((goal - position) / REACH, -1.0, 1.0)
    return np.concatenate([move, np.zeros(3), [gripper]])


class PickAndPlace:
    """Takes the task's first object of interest and puts it on the second.

    It solves what is a plain pick-and-place; drawers, knobs and tasks of two steps it does not.
    An object wider than the hand is taken by its rim.
    """

    def __init__(self, env: Any, rng: np.random.Generator) -> None:
        del rng
        self._env = env.env
        names = list(env.obj_of_interest)
        self._thing, self._target = names[0], names[-1]
        self._phase = 0
        self._waited = 0

    def __call__(self) -> np.ndarray:
        hand, closed = hand_position(self._env), 0.0
        thing = place_of(self._env, self._thing)
        target = place_of(self._env, self._target)
        radius, top = extent(self._env, self._thing)
        rim = radius if radius > FINGER_OPENING else 0.0
        grasp = thing + np.array([0.0, rim, top - BELOW_TOP])
        # Held by its rim it hangs askew: the thing should be over the target, not the hand.
        drop = np.append((target + hand - thing)[:2], target[2] + top + DROP)
        above = np.array([0.0, 0.0, HOVER])
        waypoints = (
            (grasp + above, 1.0),
            (grasp, 1.0),
            (hand, closed),
            (np.append(hand[:2], drop[2] + HOVER), closed),
            (drop + above, closed),
            (drop, closed),
            (hand, 1.0),
            (drop + above, 1.0),
        )
        goal, gripper = waypoints[self._phase]
        self._waited += 1
        gripping = goal is hand
        done = self._waited >= GRIP_STEPS if gripping else np.linalg.norm(goal - hand) < NEAR
        if done and self._phase < len(waypoints) - 1:
            self._phase, self._waited = self._phase + 1, 0
        return steer(hand, goal, gripper)


class Play:
    """Wanders between waypoints near objects, opening and closing the hand at random."""

    def __init__(self, env: Any, rng: np.random.Generator) -> None:
        self._env = env.env
        self._rng = rng
        self._step = 0

    def __call__(self) -> np.ndarray:
        if self._step % PLAY_SEGMENT == 0:
            name = self._rng.choice(sorted(self._env.objects_dict))
            offset = PLAY_SPREAD * self._rng.standard_normal(3)
            offset[2] = PLAY_HEIGHT * self._rng.random()
            self._goal = place_of(self._env, name) + offset
            self._gripper = float(self._rng.integers(2))
        self._step += 1
        action = steer(hand_position(self._env), self._goal, self._gripper)
        action[:6] += PLAY_NOISE * self._rng.standard_normal(6) * [1, 1, 1, 0.2, 0.2, 0.2]
        return np.clip(action, -1.0, 1.0)


ACTORS = {"expert": PickAndPlace, "play": Play}


def hand_position(env: Any) -> np.ndarray:
    """Of the grip site, meters [3]."""
    return env.sim.data.site_xpos[env.robots[0].eef_site_id].copy()


def place_of(env: Any, name: str) -> np.ndarray:
    """Of an object, a fixture or a region of one, meters [3]."""
    if name in env.obj_body_id:
        return env.sim.data.body_xpos[env.obj_body_id[name]].copy()
    return env.sim.data.get_site_xpos(name).copy()


def extent(env: Any, name: str) -> tuple[float, float]:
    """Radius of an object's wall and height of its top above the object's origin, meters.

    From the geoms it touches with: LIBERO's own offsets of a bowl miss its rim by 2 cm.
    """
    model, data = env.sim.model._model, env.sim.data._data
    geoms = [model.geom(geom).id for geom in env.get_object(name).contact_geoms]
    offsets = data.geom_xpos[geoms] - place_of(env, name)
    upward = data.geom_xmat[geoms].reshape(-1, 3, 3)[:, 2]
    heights = offsets[:, 2] + (np.abs(upward) * model.geom_size[geoms]).sum(axis=1)
    return float(np.linalg.norm(offsets[:, :2], axis=1).max()), float(heights.max())
