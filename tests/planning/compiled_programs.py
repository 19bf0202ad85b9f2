"""Compiles one full-size phase for a topology and writes what the compiler says.

python -m tests.planning.compiled_programs update v5p:4x4x4 result.json
"""

import json
import sys
from pathlib import Path

# The presets of `wmpo_jax.plan --all`.
TOPOLOGIES = {"v5p:4x4x4": (), "v5e:8x8": ("improve.micro_chunks=2",)}


def main(phase: str, topology: str, path: str) -> None:
    from wmpo_jax.runtime import environment

    environment.prepare(1)
    environment.compile_only()
    # Only now may JAX be imported: it reads the environment while it starts.
    from tests.planning.stray import stray_gathers
    from wmpo_jax.planning import chips, compiler, networks, programs
    from wmpo_jax.planning.collectives import within
    from wmpo_jax.runtime.config import load_config
    from wmpo_jax.runtime.mesh import mesh_shape

    config = load_config("configs/libero.py", TOPOLOGIES[topology])
    machine = chips.machine(topology)
    mesh = compiler.topology_mesh(machine, mesh_shape(config, machine.count))
    program = programs.program(phase, config, mesh)
    compiled = compiler.compile_traced(program.trace())
    sent = compiled.sent or []
    matrices = networks.matrices(program.arguments)
    result = {
        "peak": compiled.arguments + compiled.temporaries + program.resident,
        "memory": machine.chip.memory,
        "complete": compiled.sent is not None,
        "stray": [one._asdict() for one in stray_gathers(sent, matrices)],
        "in_loops": sum(bool(one.loops) for one in sent),
        "denoises": config.world_model.sampling_steps in compiled.trips,
        "while_denoising": [
            one._asdict() for one in within(sent, config.world_model.sampling_steps)
        ],
    }
    Path(path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
