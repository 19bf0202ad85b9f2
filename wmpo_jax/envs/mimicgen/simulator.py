"""MimicGen's tasks in one process, see `robosuite.simulator`."""

from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from wmpo_jax.envs.mimicgen.benchmark import TASKS, MimicgenProtocol, import_robosuite
from wmpo_jax.envs.mimicgen.states import InitialState, read
from wmpo_jax.envs.robosuite.simulator import Simulator
from wmpo_jax.runtime.errors import UserError


class MimicgenSimulator(Simulator):
    """Actions go to robosuite as they are: six for OSC_POSE, then the gripper, 1 closes."""

    settle_action = np.zeros(7)
    protocol: MimicgenProtocol

    def executed(self, action_A: np.ndarray) -> np.ndarray:
        return np.clip(action_A, -1.0, 1.0)

    def _make(self, task: int) -> Any:
        del task  # there is one
        return _Scored(self.protocol.suite, self.protocol.camera, self.protocol.image_size)

    def _set_initial_state(self, task: int, number: int) -> None:
        del task
        state = self._stored[number]
        model, sim = self.env.sim.model._model, self.env.sim
        if len(state.numbers) != 1 + model.nq + model.nv:
            raise UserError(
                f"{self.protocol.states} holds states of {len(state.numbers)} numbers and "
                f"{self.protocol.suite} has {1 + model.nq + model.nv}: give the file of this task."
            )
        for name, place in state.places.items():  # fixtures; what moves freely is in the numbers
            body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
            if body >= 0:
                model.body_pos[body] = place[:3]
                if len(place) == 7:
                    model.body_quat[body] = place[3:]
        sim.set_state_from_flattened(state.numbers)
        sim.forward()

    @cached_property
    def _stored(self) -> list[InitialState]:
        return read(self.protocol.states)

    def _turn(self, image_HWC: np.ndarray) -> np.ndarray:
        """robosuite's rows run from the bottom up, as OpenGL's do."""
        return np.ascontiguousarray(image_HWC[::-1])


class _Scored:
    """A robosuite environment with the interface of LIBERO's wrapper: `done` means success."""

    def __init__(self, name: str, camera: str, image_size: int) -> None:
        robosuite = import_robosuite(name)
        self.env = robosuite.make(
            TASKS[name].environment,
            robots="Panda",
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            has_renderer=False,
            has_offscreen_renderer=True,
            use_camera_obs=True,
            camera_names=[camera],
            camera_heights=image_size,
            camera_widths=image_size,
            control_freq=20,
        )

    @property
    def sim(self) -> Any:
        return self.env.sim

    @property
    def robots(self) -> Any:
        return self.env.robots

    def seed(self, seed: int) -> None:
        np.random.seed(seed)

    def reset(self) -> Any:
        return self.env.reset()

    def step(self, action_A: np.ndarray) -> tuple[Any, float, bool, dict]:
        observation, reward, _, extra = self.env.step(action_A)
        return observation, reward, bool(self.env._check_success()), extra

    def close(self) -> None:
        self.env.close()
