"""What it costs until environments of Playground run: CPU seconds of tracing and compilation.

    python -m benchmarks.playground PointMass PandaPickCube

Prints a row per environment: making it; tracing and lowering the program that records
demonstrations, and then the one that records play; compiling the latter. Times of the wall would
be those of whatever else the machine does.
"""

import argparse
import itertools
import time

from wmpo_jax.runtime import environment


def main() -> None:
    environment.prepare()
    parser = argparse.ArgumentParser()
    parser.add_argument("environments", nargs="+")
    print("| environment | make | trace demos | trace play | compile play |\n|---|---|---|---|---|")
    for name in parser.parse_args().environments:
        seconds = " | ".join(f"{value:.1f}" for value in measure(name))
        print(f"| {name} | {seconds} |", flush=True)


def measure(name: str) -> list[float]:
    """Seconds of the four columns."""
    import jax
    import jax.numpy as jnp

    from wmpo_jax.envs.dynamics import expert_actor, recorder
    from wmpo_jax.envs.playground.env import PREFIX, PlaygroundEnv

    jax.config.update("jax_enable_compilation_cache", False)
    marks = [time.process_time()]
    env = PlaygroundEnv(PREFIX + name, 32, {"horizon": 8, "chunk": 4})
    marks.append(time.process_time())
    for actor in (expert_actor(env, 0.0), env.play):
        program = recorder(env, actor).lower(jnp.arange(8), jax.random.key(0))
        marks.append(time.process_time())
    program.compile()
    marks.append(time.process_time())
    return [after - before for before, after in itertools.pairwise(marks)]


if __name__ == "__main__":
    main()
