"""Stage 3: P real rollouts of the base policy, sampled at the training temperature."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.stages.agents import RealDynamics, policy_family
from wmpo_jax.stages.seeds import seed_range, span
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy


def run(setting: Setting) -> None:
    """Writes data/rollouts: `starts` x `group_size` episodes, ordered group by group."""
    started = time.monotonic()
    config = setting.config
    family = policy_family(config, setting.env)
    params = load_base_policy(setting, family)
    dynamics = RealDynamics(setting.env, setting.statistics)
    seeds = seed_range("rollouts", config.seed, 0, config.collect.starts)
    starts = jnp.asarray(np.repeat(seeds, config.collect.group_size))

    @jax.jit
    def run_all(params, starts, key):
        policy = family.policy(params, config.policy.temperature)
        return rollout(policy, dynamics, starts, key, setting.num_chunks)

    trajectory = jax.device_get(run_all(params, starts, setting.key("collect")))
    save_arrays(setting.workdir.data("rollouts") / "episodes.npz", vars(trajectory))
    result = {
        "episodes": len(starts),
        "success_rate": float(trajectory.success_B.mean()),
        "invalid": int(trajectory.invalid_B.sum()),
    }
    steps = len(starts) * setting.env.horizon
    setting.workdir.ledger.append(
        "collect", "rollouts", control_steps=steps, seeds=span(seeds), **result
    )
    setting.workdir.mark_done("collect", {"seconds": time.monotonic() - started, **result})
