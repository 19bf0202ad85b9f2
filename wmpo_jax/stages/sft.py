"""Stage 2: the policy imitates the demonstrations (supervised fine-tuning on action tokens)."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from wmpo_jax.agents.policy import trained_of
from wmpo_jax.assembly import agents, networks
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training import sft
from wmpo_jax.training.fit import Stream, fit
from wmpo_jax.training.state import initial_state


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/sft, the base policy."""
    config = agents.sft_config(context.config)
    policy, frozen = context.trained.policy, context.trained.frozen_policy
    params = networks.create_policy(context.config, context.mesh, policy.build, frozen)
    trained = trained_of(params)
    state = fit(
        context.loop_files("sft"),
        context.mesh,
        initial_state(context.mesh, trained, sft.optimizer(config)),
        sft.step_function(context.mesh, policy, config, context.key("sft")),
        _training_data(context, config.batch_size * config.accumulate),
        config.optimizer.steps,
        context.config.sft.checkpoint_every,
        frozen,
    )
    return {"step": int(state.step)}


def _training_data(context: RunContext, batch_size: int) -> dict[str, Any] | Stream:
    """This run's own demonstrations, or a stream from disk."""
    chunk = context.env.chunk
    if context.mixture is not None:
        return context.stream("sft data", sft.window_spec(chunk), batch_size, clip=True)
    demos = context.episodes("demos", "demos")
    labels_ETA = np.asarray(context.statistics.normalize(demos["labels_BTA"]))
    data = sft.samples(demos["frames_BTHWC"], labels_ETA, demos["instruction_id_B"], chunk)
    return {name: jnp.asarray(values) for name, values in data.items()}
