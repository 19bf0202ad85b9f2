"""How far MJX is from LIBERO in C, task by task, and which tasks may therefore run.

`fidelity.json` is written by `python -m benchmarks.libero_mjx`; docs/libero_mjx.md shows it.
"""

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.envs.libero import truth
from wmpo_jax.envs.libero_mjx.controller import Memory
from wmpo_jax.envs.libero_mjx.physics import Goal, Physics, Start, State
from wmpo_jax.envs.libero_mjx.scene import reduced_scene
from wmpo_jax.runtime.errors import UserError

FILE = resources.files("wmpo_jax.envs.libero_mjx").joinpath("fidelity.json")
MIN_AGREEMENT = 0.95
MIN_EPISODES = 20
MIN_SUCCESSES = 5  # in C: where nothing succeeds, agreement says nothing
TIMES = (25, 50, 75)  # control steps at which errors are reported
_MEMORY = ("position", "rotation", "posture", "fingers")


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """One task, the same starts and actions in C and in MJX.

    Attributes:
      task: its number in the suite. episodes: how many.
      successes: in C, and mjx_successes in MJX. agree: episodes with the same outcome.
      hand_mm, thing_mm: median error of hand and moved thing after `TIMES` and at the end,
        millimeters; thing_p90_mm: the 90th percentile of the thing's.
      invalid: episodes in which MJX broke down.
      mujoco: the version of MuJoCo that LIBERO in C had.
    """

    task: int
    episodes: int
    successes: int
    mjx_successes: int
    agree: int
    hand_mm: tuple[float, ...]
    thing_mm: tuple[float, ...]
    thing_p90_mm: tuple[float, ...]
    invalid: int
    mujoco: str = ""

    @property
    def supported(self) -> bool:
        return (
            self.episodes >= MIN_EPISODES
            and self.successes >= MIN_SUCCESSES
            and self.agree >= MIN_AGREEMENT * self.episodes
        )


def make_physics(found: dict[str, Any], first: dict[str, np.ndarray]) -> Physics:
    """MJX of a scene that `truth` has found."""
    model = reduced_scene(found["xml"], truth.original_model(found, first))
    names = [field.name for field in dataclasses.fields(Goal)]
    return Physics(model, Goal(**{name: found[name] for name in names}))


def stacked_starts(episodes: Sequence[dict[str, np.ndarray]]) -> Start:
    """The starts of some episodes, float32, the batch in front."""

    def stack(name: str) -> jax.Array:
        return jnp.array(np.stack([episode[name] for episode in episodes]), jnp.float32)

    names = [field.name for field in dataclasses.fields(Start) if field.name != "memory"]
    memory = Memory(**{name: stack(name) for name in _MEMORY})
    return Start(**{name: stack(name) for name in names}, memory=memory)


def replay(physics: Physics, episodes: Sequence[dict[str, np.ndarray]]) -> list[State]:
    """The episodes' actions in MJX: the states [B] after each, host arrays.

    The shorter episodes repeat their last action until the longest ends.
    """
    steps = max(len(episode["actions_TA"]) for episode in episodes)
    actions_BTA = np.stack(
        [
            np.pad(e["actions_TA"], ((0, steps - len(e["actions_TA"])), (0, 0)), mode="edge")
            for e in episodes
        ]
    ).astype(np.float32)
    step = jax.jit(jax.vmap(physics.step))
    state = jax.jit(jax.vmap(physics.begin))(stacked_starts(episodes))
    states = []
    for number in range(steps):
        state = step(state, actions_BTA[:, number])
        states.append(jax.device_get(state))
    return states


def compare(
    task: int, episodes: Sequence[dict[str, np.ndarray]], states: Sequence[State]
) -> Fidelity:
    """What the replayed `states` have in common with the episodes."""
    hand, thing, outcomes, wanted, invalid = [], [], [], [], []
    for row, episode in enumerate(episodes):
        steps = len(episode["actions_TA"])
        places = [min(time, steps) - 1 for time in (*TIMES, steps)]
        errors = [(episode["hand_T3"][t] - states[t].hand[row]) for t in places]
        hand.append(np.linalg.norm(errors, axis=-1))
        errors = [(episode["thing_T3"][t] - states[t].thing[row]) for t in places]
        thing.append(np.linalg.norm(errors, axis=-1))
        outcomes.append(bool(states[steps - 1].success[row]))
        wanted.append(bool(episode["success_T"].any()))
        invalid.append(bool(states[steps - 1].invalid[row]))
    agree = np.array(outcomes) == np.array(wanted)
    return Fidelity(
        task=task,
        episodes=len(episodes),
        successes=sum(wanted),
        mjx_successes=sum(outcomes),
        agree=int(agree.sum()),
        hand_mm=_millimeters(np.median(hand, axis=0)),
        thing_mm=_millimeters(np.median(thing, axis=0)),
        thing_p90_mm=_millimeters(np.percentile(thing, 90, axis=0)),
        invalid=sum(invalid),
    )


def _millimeters(meters: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.round(1e3 * meters, 2))


def stored(suite: str) -> dict[int, Fidelity]:
    """What was measured, by task; empty for a suite of which nothing was."""
    rows = json.loads(FILE.read_text()).get(suite, [])
    return {row["task"]: Fidelity(**row) for row in rows}


def check_supported(suite: str, task: int) -> None:
    """Raises UserError unless outcomes in MJX were seen to be those in C."""
    measured = stored(suite).get(task)
    if measured is None:
        raise UserError(
            f"{suite} task {task} was never compared with LIBERO in C: in a clone, "
            f"python -m benchmarks.libero_mjx --suite={suite} --tasks {task} does that."
        )
    if not measured.supported:
        raise UserError(
            f"{suite} task {task} is not supported in MJX: {measured.agree} of "
            f"{measured.episodes} episodes end as in C, where {measured.successes} succeed; "
            f"choose of {[n for n, found in sorted(stored(suite).items()) if found.supported]}."
        )
