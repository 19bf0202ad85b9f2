"""Can every task be solved? The scripted experts, without bias, with a little noise.

    python benchmarks/experts.py                # all tasks, 256 episodes each

Prints successes, the Wilson 95 % interval, and episodes in which the physics broke.
"""

import argparse

from wmpo_jax.runtime import environment

NOISE = 0.05  # standard deviation of the executed action around the meant one, in action units


def main() -> None:
    environment.prepare()
    from wmpo_jax.envs import registry

    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--tasks", nargs="*", default=registry.names())
    flags = parser.parse_args()
    for name in flags.tasks:
        measure(name, flags.episodes)


def measure(name: str, episodes: int) -> None:
    import jax
    import numpy as np

    from wmpo_jax.assembly.seeds import seed_range
    from wmpo_jax.envs import registry
    from wmpo_jax.envs.dynamics import collect, expert_actor
    from wmpo_jax.report.intervals import wilson

    env = registry.make(name)
    seeds = seed_range("evaluation", 0, 0, episodes)
    played = collect(env, expert_actor(env, 0.0), seeds, jax.random.key(0), noise=NOISE)
    successes = int(np.sum(played.success_B))
    interval = wilson(successes, episodes)
    print(
        f"{name}: {successes} of {episodes} solved, {successes / episodes:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}], {int(np.sum(played.invalid_B))} invalid",
        flush=True,
    )


if __name__ == "__main__":
    main()
