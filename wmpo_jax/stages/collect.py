"""Stage 3: P real rollouts of the base policy, sampled at the training temperature."""

import time

import jax
import numpy as np

from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.stages.agents import policy_family
from wmpo_jax.stages.real import make_player
from wmpo_jax.stages.seeds import span
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy


def run(setting: Setting) -> None:
    """Writes data/rollouts: `starts` x `group_size` episodes, ordered group by group."""
    started = time.monotonic()
    config = setting.config
    family = policy_family(config, setting.env)
    params = load_base_policy(setting, family)
    seeds = setting.starts("rollouts", 0, config.collect.starts)
    starts = np.repeat(seeds, config.collect.group_size)
    play = make_player(setting, family)
    trajectory = jax.device_get(play(params, starts, setting.key("collect")))
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
    result |= setting.provenance()
    setting.workdir.mark_done("collect", {"seconds": time.monotonic() - started, **result})
