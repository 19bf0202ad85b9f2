"""Seconds per phase, and the fraction of the chip's peak, of a config in the released form.

    python benchmarks/accelerator.py --chip=80GB        # one H100, about four minutes
    python benchmarks/accelerator.py --chip=80GB --set improve.chunks=1 improve.groups=2

Programs are those that `wmpo_jax.plan` plans, with random weights and inputs, on which their speed
does not depend. Operations are counted in the programs (matrix products and convolutions; what is
recomputed in a backward pass counts again), peak is the datasheet's for bfloat16. Compilation is
not counted, and shown apart.
"""

import argparse
import functools
import time
from typing import NamedTuple

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.config import load_config

REPEATS = 2
# Episodes of two chunks instead of 32, since every chunk costs the same.
SHORT = ("libero.horizon=16", "improve.micro_chunks=2")


class Line(NamedTuple):
    phase: str
    what: str
    compile_s: float
    seconds: float
    operations: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/libero.py:mid")
    parser.add_argument("--chip", default="80GB", help="whose peak counts: 24GB, 80GB, H200")
    parser.add_argument("--phases", nargs="*", default=None)
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the config")
    flags = parser.parse_args()
    config = load_config(flags.config, [*SHORT, *flags.set])
    environment.prepare(config.cpu_devices)
    measure(config, flags.chip, flags.phases)


def measure(config, chip: str, phases: list[str] | None) -> None:
    from wmpo_jax.planning.chips import GPUS
    from wmpo_jax.runtime import mesh

    over = mesh.make_mesh(config)
    print(mesh.describe(over), flush=True)
    peak = GPUS[chip].flops * over.size
    print("phase          seconds  of peak  compile  GB so far  what")
    for phase, case in cases(config, over).items():
        if phases and phase not in phases:
            continue
        line = timed(phase, *case)
        print(
            f"{line.phase:13} {line.seconds:8.3f}  {line.operations / line.seconds / peak:7.1%}"
            f"  {line.compile_s:6.1f}s  {line.peak_bytes / 1e9:10.1f}  {line.what}",
            flush=True,
        )


def cases(config, over) -> dict:
    """Phase -> (jitted function, shapes of its arguments, what it does)."""
    from wmpo_jax.planning.programs import program
    from wmpo_jax.planning.task import planned_task

    section = config.improve
    episodes, steps = section.groups * section.group_size, config.world_model.sampling_steps
    at_once = f"{episodes} episodes, one chunk"
    found = parts_of_imagination(config, over, at_once, steps)
    task = planned_task(config)
    chunks = task.horizon // task.chunk
    whole = f"{episodes} episodes, {chunks} chunks, one program"
    labels = {
        "score": at_once,
        "imagine": whole,
        "update": f"{episodes} episodes of {chunks} chunks, {section.epochs} epoch(s)",
        "sft": f"{config.sft.batch_size} frames",
        "world_model": f"{config.world_model.batch_size} windows",
        "reward": f"{config.reward.batch_size} windows",
    }
    for phase, what in labels.items():
        plan = program(phase, config, over)
        found[phase] = (plan.function, plan.arguments, what)
    return found


def parts_of_imagination(config, over, at_once: str, steps: int) -> dict:
    """What an imagined chunk consists of, each alone."""
    import jax
    import jax.numpy as jnp

    from wmpo_jax.agents.world_model import VideoWorldModel
    from wmpo_jax.algorithm.protocols import Observation
    from wmpo_jax.assembly import agents
    from wmpo_jax.assembly.networks import released
    from wmpo_jax.planning.programs import program
    from wmpo_jax.planning.task import planned_task

    params, (world, _, _), start, key = program("imagine", config, over).arguments
    policy = agents.policy(config, planned_task(config))
    sizes, video = released(config, "world_model"), released(config, "autoencoder")
    side = config.image_size // video.downsampling
    episodes = len(start.frame_BHWC)
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=start.instruction_id_B.sharding)
    history = shape((episodes, sizes.history, side, side, sizes.in_channels), jnp.float32)
    latents = shape((episodes, sizes.chunk, side, side, sizes.in_channels), jnp.float32)
    actions = shape((episodes, sizes.chunk, sizes.action_dim), jnp.float32)

    def act(params, frame, instruction_id, key):
        seen = Observation(frame, instruction_id)
        return policy.acting(params, config.policy.temperature)(seen, key)

    return {
        "policy": (jax.jit(act), (params, start.frame_BHWC, start.instruction_id_B, key), at_once),
        "sampler": (
            jax.jit(VideoWorldModel.predict),
            (world, history, actions, key),
            f"{at_once}, {steps} denoising steps",
        ),
        "decode": (jax.jit(VideoWorldModel.decode), (world, latents), at_once),
    }


def timed(phase: str, function, shapes, what: str) -> Line:
    """Compiles, runs once, then takes the fastest of REPEATS runs."""
    import jax

    from wmpo_jax.planning import flops

    traced = function.trace(*shapes)
    operations = flops.count(traced.jaxpr)
    lowered = traced.lower()
    donated = [
        place
        for place, info in enumerate(lowered.args_info[0])
        if any(leaf.donated for leaf in jax.tree.leaves(info))
    ]
    arguments = [random_like(number, shape) for number, shape in enumerate(shapes)]
    started = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - started
    best = float("inf")
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        results = jax.block_until_ready(compiled(*arguments))
        best = min(best, time.perf_counter() - started)
        for place, used_up in enumerate(donated):  # what comes back takes their place
            arguments[used_up] = results[place] if len(donated) > 1 else results[0]
    memory = jax.devices()[0].memory_stats() or {}
    del arguments, results
    return Line(phase, what, compile_s, best, operations, memory.get("peak_bytes_in_use", 0))


def random_like(seed: int, tree):
    """Arrays of these shapes, made where they belong; integers are zeros, whatever they count."""
    import jax
    import jax.numpy as jnp

    leaves, structure = jax.tree.flatten(tree)

    def fill(key, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return key
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    def make():
        keys = jax.random.split(jax.random.key(seed), len(leaves) or 1)
        return [fill(key, leaf) for key, leaf in zip(keys, leaves, strict=False)]

    made = jax.jit(make, out_shardings=[leaf.sharding for leaf in leaves])()
    return jax.tree.unflatten(structure, made)


if __name__ == "__main__":
    main()
