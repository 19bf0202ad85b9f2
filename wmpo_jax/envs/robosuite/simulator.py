"""robosuite in one process: many episodes take turns in one environment.

An environment needs a gigabyte and seconds to build, so there is one, of one task, and an
episode that waits is a `Snapshot`. What is computed for an episode is, to the last bit, what
the benchmark computes when it runs that episode alone (tests/envs/libero/test_truth.py).

Making an environment imports robosuite; only processes in `environment`'s Python do.
"""

import dataclasses
from typing import Any

import mujoco
import numpy as np

from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.envs.robosuite.observables import ObservedCamera

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_BROKEN = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
# Decided by a reset rather than by the physics: where fixtures stand, which lights are drawn.
_MODEL_FIELDS = ("body_pos", "body_quat", "site_rgba")


@dataclasses.dataclass
class Snapshot:
    """All that distinguishes one episode of a task from another between two control steps."""

    physics: np.ndarray
    model: dict[str, np.ndarray]
    controller: dict[str, Any]
    gripper: np.ndarray
    observables: dict[str, tuple]


@dataclasses.dataclass
class Episode:
    """One episode in progress; `frame` is the newest picture that was asked for."""

    snapshot: Snapshot
    frame: np.ndarray
    step: int = 0
    success: bool = False
    invalid: bool = False


class Simulator:
    """The environment of one task at a time and its episodes, by slot.

    A suite says how an environment is made (`_make`), what an action is in its units (`executed`)
    and which one stands still (`settle_action`), and what its stored initial states are.
    """

    settle_action: np.ndarray

    def __init__(self, protocol: EvaluationProtocol) -> None:
        self.protocol = protocol
        self._episodes: dict[int, Episode] = {}
        self._task: int | None = None
        self._current: int | None = None

    def reset(self, slot: int, task: int, init: int, seed: int) -> np.ndarray:
        """Begins an episode in `slot`; returns the frame after the settle steps.

        Args:
          init: number of a stored initial state, or -1 for objects placed anew from `seed`.
        """
        self._load(task)
        if init >= 0:
            self._restore(self._base)
            self._set_initial_state(task, init)
        else:
            self._place_anew(seed)
        for _ in range(self.protocol.settle_steps - 1):
            self.env.step(self.settle_action)
        self._camera.wanted = True
        self.observation = self.env.step(self.settle_action)[0]
        self._current = slot
        self._episodes[slot] = Episode(self._snapshot(), self._frame())
        return self._episodes[slot].frame

    def step(self, slot: int, actions_KA: np.ndarray, draw: str) -> dict[str, Any]:
        """Executes a chunk; nothing moves after success, breakdown or the horizon.

        Args:
          draw: "all" renders each frame, "last" that after the chunk, "none" none. A frame that is
            not rendered repeats the one before.
        Returns:
          frames_KHWC uint8, success_K bool, invalid bool.
        """
        self._enter(slot)
        episode = self._episodes[slot]
        frames, success = [], []
        for number, action_A in enumerate(actions_KA):
            if self.alive(episode):
                last = number == len(actions_KA) - 1
                self.advance(episode, action_A, draw == "all" or (draw == "last" and last))
            frames.append(episode.frame)
            success.append(episode.success)
        return {
            "frames_KHWC": np.stack(frames),
            "success_K": np.array(success),
            "invalid": episode.invalid,
        }

    def alive(self, episode: Episode) -> bool:
        ended = episode.success or episode.invalid
        return not ended and episode.step < self.protocol.horizon

    def advance(self, episode: Episode, action_A: np.ndarray, draw: bool) -> None:
        """One control step of the episode that is in the environment now."""
        before = self._breakdowns()
        self._camera.wanted = draw
        self.observation, _, success, _ = self.env.step(self.executed(action_A))
        episode.step += 1
        episode.invalid = self._breakdowns() > before
        episode.success = bool(success) and not episode.invalid
        if draw or not self.alive(episode):
            episode.frame = self._frame() if draw else self._look()

    def executed(self, action_A: np.ndarray) -> np.ndarray:
        """The environment's action for the policy's `action_A`."""
        raise NotImplementedError

    def state(self, slot: int) -> dict[str, np.ndarray]:
        """float64 positions of all joints (`qpos`), and the `proprio` LIBERO observed last."""
        self._enter(slot)
        return {
            "qpos": self.env.sim.data.qpos.copy(),
            "proprio": np.array(self.observation["robot0_proprio-state"]),
        }

    def mute(self) -> None:
        """Nothing is drawn until somebody asks again."""
        self._camera.wanted = False

    def draw(self, slot: int, qpos: np.ndarray) -> np.ndarray:
        """The picture of an episode whose joints are moved to `qpos`: uint8 [H, W, 3]."""
        self._enter(slot)
        self.env.sim.data.qpos[:] = qpos
        self.env.sim.forward()
        return self._look()

    def episode(self, slot: int) -> Episode:
        return self._episodes[slot]

    def close(self) -> None:
        """Ends all episodes and the environment."""
        if self._task is not None:
            self.env.close()
        self._episodes.clear()
        self._task = self._current = None

    def _load(self, task: int) -> None:
        if task == self._task:
            self._leave()
            return
        self.close()
        protocol = self.protocol
        self.env = self._make(task)
        self.env.env.ignore_done = True  # the protocol counts the steps
        self.env.seed(protocol.reset_seed)
        self.env.reset()
        self._camera = ObservedCamera(self.env.env, protocol.camera)
        self._base = self._snapshot()
        self._task = task

    def _make(self, task: int) -> Any:
        """A new environment of a task, with the interface of LIBERO's wrapper."""
        raise NotImplementedError

    def _set_initial_state(self, task: int, number: int) -> None:
        """Puts a stored initial state into the environment."""
        raise NotImplementedError

    def _place_anew(self, seed: int) -> None:
        """The benchmark's own random placement, without building the model again."""
        self._restore(self._base)
        self.env.env.hard_reset = False
        self.env.seed(seed)
        self.env.reset()
        self._gripper.current_action = np.zeros_like(self._gripper.current_action)

    def _enter(self, slot: int) -> None:
        if slot != self._current:
            self._leave()
            self._restore(self._episodes[slot].snapshot)
            self._current = slot

    def _leave(self) -> None:
        if self._current is not None:
            self._episodes[self._current].snapshot = self._snapshot()
            self._current = None

    @property
    def _gripper(self) -> Any:
        return self.env.robots[0].gripper

    def _snapshot(self) -> Snapshot:
        model, data = self.env.sim.model._model, self.env.sim.data._data
        physics = np.empty(mujoco.mj_stateSize(model, _STATE))
        mujoco.mj_getState(model, data, physics, _STATE)
        return Snapshot(
            physics=physics,
            model={name: getattr(model, name).copy() for name in _MODEL_FIELDS},
            controller=_values(self.env.robots[0].controller),
            gripper=self._gripper.current_action.copy(),
            observables=self._camera.state(),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        model, data = self.env.sim.model._model, self.env.sim.data._data
        for name, value in snapshot.model.items():
            getattr(model, name)[:] = value
        mujoco.mj_setState(model, data, snapshot.physics, _STATE)
        vars(self.env.robots[0].controller).update(_copied(snapshot.controller))
        self._gripper.current_action = snapshot.gripper.copy()
        self._camera.restore(snapshot.observables)

    def _breakdowns(self) -> int:
        warnings = self.env.sim.data._data.warning
        return sum(int(warnings[kind].number) for kind in _BROKEN)

    def _frame(self) -> np.ndarray:
        return self._turn(self.observation[f"{self.protocol.camera}_image"])

    def _look(self) -> np.ndarray:
        """The picture of this very moment, for the last frame of an episode that ends unseen."""
        return self._turn(self._camera.render())

    def _turn(self, image_HWC: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(image_HWC, self.protocol.rotation // 90))


def _values(owner: Any) -> dict[str, Any]:
    """Numbers, flags and arrays of a controller; not the simulation it belongs to."""
    plain = (np.ndarray, bool, int, float, type(None))
    return _copied({name: v for name, v in vars(owner).items() if isinstance(v, plain)})


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }
