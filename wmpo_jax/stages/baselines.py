"""Baselines on the P real rollouts alone, evaluated as WMPO is: what do they give without a world
model?

    python -m wmpo_jax.main --config=configs/tiny.py --stages=filtered_bc,dpo,grpo_on_rollouts

Every entry of a baseline's `settings`, (epochs, learning rate), starts from the base policy and
sees exactly those episodes. The best one is chosen on the evaluation itself, which favors the
baseline.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from wmpo_jax.agents.policy import frozen_of, joined, trained_of
from wmpo_jax.algorithm.dpo import pairs
from wmpo_jax.algorithm.grpo import mixed_groups
from wmpo_jax.algorithm.trajectory import Trajectory, experience, select
from wmpo_jax.assembly import agents
from wmpo_jax.report.intervals import paired_difference
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays, save_arrays
from wmpo_jax.runtime.mesh import replicate
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.evaluate import MODES, RealEvaluator
from wmpo_jax.stages.rates import rate
from wmpo_jax.training import dpo, grpo, sft
from wmpo_jax.training.state import initial_state

# (number of the setting, epochs, learning rate) -> the policy's parameters
Train = Callable[[int, int, float], Any]


def run_grpo_on_rollouts(context: RunContext) -> dict[str, Any]:
    """GRPO on the groups that have both successes and failures."""
    size = context.config.collect.group_size
    policy, base = context.trained.policy, context.trained.policy_params("sft")
    everything = _rollouts(context)
    mixed = np.flatnonzero(mixed_groups(everything.success_B, size))
    if len(mixed) == 0:
        raise _nothing_to_compare(len(everything.success_B), "GRPO")
    rows = (mixed[:, None] * size + np.arange(size)).reshape(-1)
    rollouts = replicate(context.mesh, select(experience(everything), jnp.asarray(rows)))

    def train(number: int, epochs: int, learning_rate: float) -> Any:
        config = agents.grpo_config(
            context.config,
            groups=len(mixed),
            group_size=size,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        update = jax.jit(grpo.make_update(policy, config, context.mesh))
        start, frozen = trained_of(base), frozen_of(base)
        opt_state, weight_B = config.optimizer().init(start), jnp.ones(len(rows))
        key = jax.random.fold_in(context.key("grpo_on_rollouts"), number)
        return joined(update(start, opt_state, rollouts, weight_B, key, frozen)[0], frozen)

    return _best_of(context, "grpo_on_rollouts", train)


def run_filtered_bc(context: RunContext) -> dict[str, Any]:
    """Imitation of the successes, until they were reached (filtered behavior cloning)."""
    policy, base = context.trained.policy, context.trained.policy_params("sft")
    rollouts = _rollouts(context)
    won = np.flatnonzero(np.asarray(rollouts.success_B))
    if len(won) == 0:
        raise UserError(
            f"None of {len(rollouts.success_B)} rollouts succeeded: filtered behavior cloning has "
            "nothing to imitate, raise collect.starts in a new workdir."
        )
    data = _imitated(select(rollouts, jnp.asarray(won)), context.env.chunk)

    def train(number: int, epochs: int, learning_rate: float) -> Any:
        steps = max(1, epochs * len(data["instruction_id_X"]) // context.config.sft.batch_size)
        config = agents.sft_config(context.config, steps, learning_rate)
        key = jax.random.fold_in(context.key("filtered_bc"), number)
        state = initial_state(context.mesh, trained_of(base), sft.optimizer(config))
        step = sft.step_function(context.mesh, policy, config, key)
        for _ in range(steps):
            state, _ = step(state, replicate(context.mesh, data), frozen_of(base))
        return joined(state.params, frozen_of(base))

    result = _best_of(context, "filtered_bc", train)
    return result | {"imitated_episodes": len(won)}


def run_dpo(context: RunContext) -> dict[str, Any]:
    """DPO on pairs of a success and a failure from the same start."""
    policy, base = context.trained.policy, context.trained.policy_params("sft")
    rollouts = _rollouts(context)
    size = context.config.collect.group_size
    winner_P, loser_P = pairs(np.asarray(rollouts.success_B), size)
    if len(winner_P) == 0:
        raise _nothing_to_compare(len(rollouts.success_B), "DPO")
    chosen = dpo.Pairs(winner_P=jnp.asarray(winner_P), loser_P=jnp.asarray(loser_P))
    episodes, chosen = replicate(context.mesh, (rollouts, chosen))

    def train(number: int, epochs: int, learning_rate: float) -> Any:
        config = dpo.DPOConfig(
            beta=context.config.dpo.beta,
            epochs=epochs,
            minibatch=context.config.dpo.minibatch,
            learning_rate=learning_rate,
            temperature=context.config.policy.temperature,
        )
        training = dpo.make_training(policy, config, context.mesh)
        key = jax.random.fold_in(context.key("dpo"), number)
        params, _ = training(trained_of(base), frozen_of(base), episodes, chosen, key)
        return joined(params, frozen_of(base))

    return _best_of(context, "dpo", train) | {"pairs": len(winner_P)}


def _rollouts(context: RunContext) -> Trajectory:
    """The P rollouts of stage collect, in the host's memory."""
    return Trajectory(**context.episodes("rollouts", "collect"))


def _nothing_to_compare(count: int, learner: str) -> UserError:
    return UserError(
        f"No group of {count} rollouts has both successes and failures: "
        f"{learner} has nothing to learn from them, raise collect.starts in a new workdir."
    )


def _imitated(episodes: Trajectory, chunk: int) -> dict[str, np.ndarray]:
    """`sft.samples` of what was done before each success."""
    labels_ETA = rearrange(np.asarray(episodes.actions_BNKA), "e n k a -> e (n k) a")
    instruction_id = np.asarray(episodes.instruction_id_B)
    data = sft.samples(np.asarray(episodes.frames_BTHWC), labels_ETA, instruction_id, chunk)
    count = labels_ETA.shape[1] - chunk + 1
    before_EX = np.arange(count)[None] < np.asarray(episodes.finish_step_B)[:, None]
    return {name: values[before_EX.reshape(-1)] for name, values in data.items()}


def _best_of(context: RunContext, name: str, train: Train) -> dict[str, Any]:
    """Trains and evaluates every setting; one row per episode in data/evaluation/<name>.npz."""
    evaluator = RealEvaluator(context, context.trained.policy)
    results: dict[str, np.ndarray] = {}
    table = []
    for number, (epochs, learning_rate) in enumerate(context.config[name].settings):
        params = train(number, epochs, learning_rate)
        row: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
        for mode in MODES:
            success = evaluator.outcomes(params, mode)["success"]
            results[f"{number}_{mode}"] = success
            row[mode] = rate(success)
        table.append(row)
    save_arrays(context.workdir.data("evaluation") / f"{name}.npz", results)
    primary = context.config.evaluate.primary
    best = int(np.argmax([row[primary]["rate"] for row in table]))
    return {
        "settings": table,
        "best": table[best],
        "best_setting": best,
        **_against_wmpo(context, {mode: results[f"{best}_{mode}"] for mode in MODES}),
    }


def _against_wmpo(context: RunContext, success: dict[str, np.ndarray]) -> dict[str, Any]:
    """Paired differences, where WMPO has been evaluated before."""
    if not context.workdir.done("evaluate"):
        return {}
    ours = load_arrays(context.workdir.data("evaluation") / "results.npz", "evaluate")
    paired = {}
    for mode in MODES:
        difference = paired_difference(success[mode], ours[f"wmpo_{mode}"])
        low, high = difference.low, difference.high
        paired[mode] = {"difference": difference.estimate, "low": low, "high": high}
    return {"wmpo_minus_best": paired}
