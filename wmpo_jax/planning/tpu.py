"""Compiling for TPUs that are not attached, with libtpu's compiler (extra `tpu`)."""

import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from wmpo_jax.planning.chips import Machine
from wmpo_jax.planning.collectives import Collective, collectives, trips
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import mesh_of

_USED = re.compile(r"Used ([\d.]+)([GM]) of")
_UNIT = {"G": 2**30, "M": 2**20}


class Compiled(NamedTuple):
    """What the compiler says of a program, per chip.

    Attributes:
      arguments, temporaries: bytes; outputs that take the place of a donated argument are counted
        among the arguments, others among the temporaries.
      sent: collectives, None when the program does not fit and was not compiled to the end.
      trips: how often each of its loops runs.
    """

    arguments: int
    temporaries: int
    sent: list[Collective] | None
    trips: frozenset[int]


def topology_mesh(machine: Machine, shape: tuple[int, ...]) -> Mesh:
    """The machine's chips as a (data, fsdp, tensor) mesh.

    Raises:
      UserError: libtpu is not installed, or has no such topology.
    """
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=str(machine.topology)
        )
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"libtpu gives no topology {machine.topology} ({str(error).splitlines()[0][:120]}): "
            "install the extra tpu, or choose another shape."
        ) from error
    return mesh_of(description.devices, shape)


def compile_traced(traced: Any) -> Compiled:
    """Compiles a `Program.trace()` for the chips that its shardings name."""
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = _USED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or used is None:
            raise
        total = int(float(used[1]) * _UNIT[used[2]])
        return Compiled(0, total, None, frozenset())
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes + fresh + memory.generated_code_size_in_bytes
    text = compiled.as_text()
    return Compiled(held, temporaries, collectives(text), frozenset(trips(text)))
