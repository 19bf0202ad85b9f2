"""LIBERO's observations on LIBERO's clock, with a camera that draws only what is wanted.

robosuite samples an observation once in a control step, at a substep that depends on how often it
was forced to before (after a stored initial state it is the last but one). Rendering on our own
would show a slightly different moment, so the sensor stays robosuite's and is muted instead.
"""

import functools
from typing import Any

import numpy as np

_CLOCK = ("_time_since_last_sample", "_sampled", "_current_delay", "_current_observed_value")


class ObservedCamera:
    """The observables of a robosuite environment.

    Attributes:
      wanted: whether the next sample of the camera renders; otherwise it repeats the last image.
    """

    def __init__(self, env: Any, camera: str) -> None:
        self.wanted = True
        self._env = env
        observable = env._observables[f"{camera}_image"]
        self._sensor = observable._sensor
        self._image = observable.obs

        @functools.wraps(self._sensor)  # robosuite looks for the sensor's modality
        def muted(cache: Any) -> np.ndarray:
            if self.wanted:
                self._image = self._sensor(cache)
            return self._image

        observable.set_sensor(muted)

    def render(self) -> np.ndarray:
        """The image of this moment, uint8 [H, W, 3], bottom row first."""
        return self._sensor({})

    def state(self) -> dict[str, tuple]:
        """Where each observable is in its sampling period, and what it saw last."""
        return {
            name: tuple(getattr(observable, field) for field in _CLOCK)
            for name, observable in self._env._observables.items()
        }

    def restore(self, state: dict[str, tuple]) -> None:
        for name, values in state.items():
            for field, value in zip(_CLOCK, values, strict=True):
                setattr(self._env._observables[name], field, value)
