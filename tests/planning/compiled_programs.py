"""Compiles one full-size phase for a topology and writes what the compiler says.

python -m tests.planning.compiled_programs update v5p:4x4x4 result.json
"""

import json
import sys
from pathlib import Path

from wmpo_jax.runtime import environment

environment.prepare(1)
environment.compile_only()

from wmpo_jax.planning import chips, programs, tpu  # noqa: E402
from wmpo_jax.runtime.config import load_config  # noqa: E402
from wmpo_jax.runtime.mesh import mesh_shape  # noqa: E402


def main(phase: str, topology: str, path: str) -> None:
    config = load_config("configs/libero.py")
    machine = chips.machine(topology)
    mesh = tpu.topology_mesh(machine, mesh_shape(config, machine.count))
    program = programs.program(phase, config, mesh)
    compiled = tpu.compile_program(program)
    result = {
        "peak": compiled.arguments + compiled.temporaries + program.resident,
        "memory": machine.chip.memory,
        "sent": [one._asdict() for one in compiled.sent or ()],
        "complete": compiled.sent is not None,
    }
    Path(path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
