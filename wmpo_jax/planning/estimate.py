"""One row of the plan: does a phase fit, how long would it take at peak, what to change if not."""

from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.planning import compiler, flops
from wmpo_jax.planning.chips import Machine
from wmpo_jax.planning.programs import program


class Row(NamedTuple):
    """A phase on a machine; bytes are those of one chip.

    Attributes:
      arguments: parameters, optimizer states and data of the program.
      resident: what other phases left in memory.
      temporaries: as the compiler says.
      flops: of the whole program, on all chips.
      sent: bytes by kind of collective, None where the compiler gave up.
      seconds: the larger of computing and sending at the chip's peak rates: a lower bound.
    """

    phase: str
    arguments: int
    resident: int
    temporaries: int
    flops: float
    sent: dict[str, int] | None
    seconds: float
    machine: Machine

    @property
    def peak(self) -> int:
        return self.arguments + self.resident + self.temporaries

    @property
    def fits(self) -> bool:
        return self.peak <= self.machine.chip.memory


def row(phase: str, config: ConfigDict, machine: Machine, mesh: Mesh) -> Row:
    """Compiles one phase."""
    plan = program(phase, config, mesh)
    traced = plan.trace()
    operations = flops.count(traced.jaxpr)
    computing = operations / machine.count / machine.chip.flops
    compiled = compiler.compile_traced(traced, gpu=machine.topology is None)
    sent: dict[str, int] = {}
    for collective in compiled.sent or ():
        sent[collective.kind] = sent.get(collective.kind, 0) + collective.bytes * collective.times
    seconds = max(computing, sum(sent.values()) / machine.chip.links)
    return Row(
        phase,
        compiled.arguments,
        plan.resident,
        compiled.temporaries,
        operations,
        None if compiled.sent is None else sent,
        seconds,
        machine,
    )


def advice(found: Row, config: ConfigDict) -> str:
    """What to change so that a phase fits; "" when it does."""
    if found.fits:
        return ""
    if found.arguments + found.resident > 0.9 * found.machine.chip.memory:
        few = "more chips on the axis fsdp"
        return few if config.policy.lora_rank else f"{few}, or policy.lora_rank=32"
    field = {
        "sft": "sft.batch_size (and raise sft.accumulate)",
        "world_model": "world_model.batch_size (and raise world_model.accumulate)",
        "reward": "reward.batch_size",
        "update": "improve.micro_chunks, then improve.minibatch",
    }
    return f"lower {field.get(found.phase, 'improve.groups')}"
