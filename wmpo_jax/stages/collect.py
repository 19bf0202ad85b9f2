"""Stage 3: P real rollouts of the base policy, sampled at the training temperature.

Later rounds of the lifelong loop collect with the last policy of the round before, even where an
earlier one is its result: the world model is to learn where reinforcement has exploited it.
"""

from typing import Any

import jax
import numpy as np
from einops import rearrange

from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.assembly.seeds import span
from wmpo_jax.data.collected import EpisodeWriter, from_arrays
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch
from wmpo_jax.stages.context import RunContext

FPS = 20.0  # nominal: environments do not say how long a control step is; most take 50 ms
GROUP_IN_TAR = 64  # episodes


def run(context: RunContext) -> dict[str, Any]:
    """Writes data/rollouts: `starts` x `group_size` episodes, ordered group by group.

    Once as arrays for the later stages, and once as a dataset (data/rollouts/dataset) for others.
    """
    config, name = context.config, context.named("rollouts")
    params = context.trained.collecting_policy_params()
    first_round = context.round == 1
    count = config.collect.starts if first_round else config.lifelong.starts[context.round - 2]
    seeds = context.round_starts("rollouts", 0, count)
    starts = np.repeat(seeds, config.collect.group_size)
    trajectory = fetch(context.player()(params, starts, context.key("collect")))
    save_arrays(context.workdir.data(name) / "episodes.npz", vars(trajectory))
    _write_dataset(context, name, trajectory, np.asarray(starts))
    result = {
        "episodes": len(starts),
        "success_rate": float(trajectory.success_B.mean()),
        "invalid": int(trajectory.invalid_B.sum()),
    }
    steps = len(starts) * context.env.horizon
    context.workdir.ledger.append(
        context.named("collect"), name, control_steps=steps, seeds=span(seeds), **result
    )
    return result | context.provenance()


def _write_dataset(
    context: RunContext, name: str, trajectory: Trajectory, seeds_B: np.ndarray
) -> None:
    """The rollouts in the reference's tars, actions in the environment's units."""
    if jax.process_index() != 0:
        return
    actions_BTA = rearrange(trajectory.actions_BNKA, "b n k a -> b (n k) a")
    episodes = from_arrays(
        np.asarray(trajectory.frames_BTHWC),
        np.asarray(context.statistics.unnormalize(np.asarray(actions_BTA))),
        [context.env.instructions[row] for row in trajectory.instruction_id_B],
        np.asarray(trajectory.success_B),
        np.asarray(trajectory.finish_step_B),
        seeds_B,
        source=name,
        fps=FPS,
    )
    writer, group = EpisodeWriter(context.workdir.data(name) / "dataset"), GROUP_IN_TAR
    for first in range(0, len(episodes), group):
        writer.write(episodes[first : first + group])
