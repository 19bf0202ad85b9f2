"""Scripted motion through LIBERO's own controller: a pick-and-place, and play without a goal.

Both read the true state of the simulation, as nobody at test time may. Actions are [7] in [-1, 1]
with gripper 1 = open, 0 = closed.
"""

from typing import Any

import numpy as np

REACH = 0.05  # meters that a full action asks for
TURN = 0.5  # radians, likewise
NEAR = 0.015  # meters from a waypoint at which it counts as reached
HOVER = 0.12  # meters above things at which the hand travels
GRIP_STEPS = 10  # control steps that the fingers need from end to end, and two more
FINGER_OPENING = 0.04  # meters, half the widest
BELOW_TOP = 0.02  # meters below an object's top at which it is grasped
DROP = 0.06  # meters above the target at which it is let go
FINGER_ROOM = 0.089  # meters from a rim's middle to a drawer's corner that the outer finger needs
PULLED = 0.09  # meters from that corner to the middle of what is lifted
ACROSS = np.array([0.0, 1.0])  # horizontal direction in which an unturned hand's fingers move

PLAY_SEGMENT = 8  # control steps between two waypoints of play
PLAY_SPREAD = 0.08  # meters, standard deviation of a waypoint around an object
PLAY_HEIGHT = 0.25  # meters above an object, the highest waypoint
PLAY_NOISE = 0.2  # action units


def steer(position: np.ndarray, goal: np.ndarray, gripper: float, turn: float = 0.0) -> np.ndarray:
    """The action that moves the hand straight toward `goal`, meters [3], and turns it about the
    vertical by `turn`, radians."""
    move = np.clip((goal - position) / REACH, -1.0, 1.0)
    return np.concatenate([move, [0.0, 0.0, np.clip(turn / TURN, -1.0, 1.0)], [gripper]])


class PickAndPlace:
    """Takes the task's first object of interest and puts it on the second.

    It solves what is a plain pick-and-place; shut drawers, knobs and tasks of two steps it does
    not. An object wider than the hand is taken by its rim.
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
        _, top = extent(self._env, self._thing)
        grasp = self.grasp()
        # Held by its rim it hangs askew: the thing should be over the target, not the hand.
        drop = np.append((target + hand - thing)[:2], target[2] + top + DROP)
        above = np.array([0.0, 0.0, HOVER])
        travel = self.travel(drop[2] + HOVER)
        waypoints = (
            (grasp + above, 1.0),
            (grasp, 1.0),
            (hand, closed),
            *((point, closed) for point in self.lift(travel)),
            (np.append(drop[:2], travel), closed),
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
        return steer(hand, goal, gripper, self.turn())

    def grasp(self) -> np.ndarray:
        """Where the hand closes, meters [3]."""
        radius, top = extent(self._env, self._thing)
        rim = radius if radius > FINGER_OPENING else 0.0
        return place_of(self._env, self._thing) + np.array([0.0, rim, top - BELOW_TOP])

    def lift(self, height: float) -> tuple[np.ndarray, ...]:
        """Waypoints [3] of the hand with the thing, up to `height`; meters."""
        return (np.append(hand_position(self._env)[:2], height),)

    def travel(self, height: float) -> float:
        """Height of the way to the target, of which the end needs `height`; meters."""
        return height

    def turn(self) -> float:
        """What the hand lacks of its turn about the vertical, radians."""
        return 0.0


class OutOfDrawer(PickAndPlace):
    """The same with a thing that is in an open drawer, wider than the hand.

    Only in the drawer's corners has the outer finger room, and behind the thing is the edge of the
    cabinet's top, so that it is pulled forward before it is lifted.
    """

    def __init__(self, env: Any, rng: np.random.Generator, drawer: str) -> None:
        super().__init__(env, rng)
        thing = place_of(self._env, self._thing)
        corner = roomiest_corner(self._env, self._thing, drawer)
        room = float(np.linalg.norm(corner - thing[:2]))
        self._side = (corner - thing[:2]) / room
        self._inside = max(extent(self._env, self._thing)[0] + FINGER_ROOM - room, 0.0)
        self._front = corner - PULLED * self._side
        self._travel = rim_toward(self._env, self._thing, self._side)[2] + HOVER

    def grasp(self) -> np.ndarray:
        rim = rim_toward(self._env, self._thing, self._side)
        return rim - np.append(self._inside * self._side, BELOW_TOP)

    def lift(self, height: float) -> tuple[np.ndarray, ...]:
        hand = hand_position(self._env)
        pulled = self._front + (hand - place_of(self._env, self._thing))[:2]
        return np.append(pulled, hand[2]), np.append(pulled, height)

    def travel(self, height: float) -> float:
        return max(height, self._travel)

    def turn(self) -> float:
        return turn_to(self._env, self._side)


def expert(env: Any, rng: np.random.Generator) -> PickAndPlace:
    """The script for an environment's task."""
    drawer = drawer_of(env.env, env.obj_of_interest[0])
    return OutOfDrawer(env, rng, drawer) if drawer else PickAndPlace(env, rng)


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


ACTORS = {"expert": expert, "play": Play}


def hand_position(env: Any) -> np.ndarray:
    """Of the grip site, meters [3]."""
    return env.sim.data.site_xpos[env.robots[0].eef_site_id].copy()


def place_of(env: Any, name: str) -> np.ndarray:
    """Of an object, a fixture or a region of one, meters [3]."""
    if name in env.obj_body_id:
        return env.sim.data.body_xpos[env.obj_body_id[name]].copy()
    return env.sim.data.get_site_xpos(name).copy()


def drawer_of(env: Any, name: str) -> str:
    """The region that the task's definition puts an object in; empty where it puts it on one."""
    for predicate, *arguments in env.parsed_problem["initial_state"]:
        if predicate == "in" and arguments[0] == name:
            return arguments[1]
    return ""


def roomiest_corner(env: Any, name: str, drawer: str) -> np.ndarray:
    """Of the two corners at a drawer's front, seen from above, the one toward which the hand has to
    turn less to take an object in it; meters [2]."""
    thing, middle = place_of(env, name), env.sim.data.get_site_xpos(drawer)
    axes = env.sim.data.get_site_xmat(drawer) * env.sim.model._model.site(drawer).size
    one, other = axes.T[np.argsort(np.abs(axes[2]))[:2]]  # the upright one is left out
    corners = [middle + a * one + b * other for a in (-1, 1) for b in (-1, 1)]
    base = place_of(env, env.object_sites_dict[drawer].parent_name)
    front = sorted(corners, key=lambda corner: -np.linalg.norm((corner - base)[:2]))[:2]
    ways = [(corner - thing)[:2] / np.linalg.norm((corner - thing)[:2]) for corner in front]
    return front[int(np.argmax(np.abs(ways @ ACROSS)))][:2]


def turn_to(env: Any, side: np.ndarray) -> float:
    """By what the hand has to turn about the vertical until its fingers move along `side`; rad."""
    fingers = env.sim.data.site_xmat[env.robots[0].eef_site_id].reshape(3, 3)[:2, 0]
    angle = np.arctan2(*side[::-1]) - np.arctan2(*fingers[::-1])
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def extent(env: Any, name: str) -> tuple[float, float]:
    """Radius of an object's wall and height of its top above the object's origin, meters."""
    offsets, heights = _walls(env, name)
    return float(np.linalg.norm(offsets[:, :2], axis=1).max()), float(heights.max())


def rim_toward(env: Any, name: str, side: np.ndarray) -> np.ndarray:
    """The top of an object's wall in the horizontal direction `side` [2] from its origin, meters
    [3]; of an object that leans, too."""
    offsets, heights = _walls(env, name)
    farthest = int(np.argmax(offsets[:, :2] @ side))
    along = float(offsets[farthest, :2] @ side)
    return place_of(env, name) + np.append(along * side, heights[farthest])


def _walls(env: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Middles [G, 3] and tops [G] of an object's geoms, relative to its origin, meters.

    Of those it touches with: LIBERO's own offsets of a bowl miss its rim by 2 cm.
    """
    model, data = env.sim.model._model, env.sim.data._data
    geoms = [model.geom(geom).id for geom in env.get_object(name).contact_geoms]
    offsets = data.geom_xpos[geoms] - place_of(env, name)
    upward = data.geom_xmat[geoms].reshape(-1, 3, 3)[:, 2]
    return offsets, offsets[:, 2] + (np.abs(upward) * model.geom_size[geoms]).sum(axis=1)
