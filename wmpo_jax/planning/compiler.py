"""Compiling for chips that are not attached: TPUs by libtpu, GPUs by JAX's CUDA plugin.

They come with the extras `tpu` and `gpu_plan`; neither needs a device or a driver.
"""

import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from wmpo_jax.planning.chips import Chip, Machine
from wmpo_jax.planning.collectives import Collective, collectives, trips
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import mesh_of

_USED = re.compile(r"Used ([\d.]+)([GM]) of")
# Autotuning runs kernels, for which there is no device; without it some Triton products have no
# tiles, and cuBLAS's need none.
_GPU: dict[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
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
      UserError: the compiler is not installed, or has no such topology.
    """
    try:
        if machine.topology is None:
            description = topologies.get_topology_desc(
                platform="cuda",
                target_config=gpu_target(machine.chip),
                topology=f"1x1x{machine.count}",
            )
        else:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=machine.topology
            )
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        compiler, extra = ("libtpu", "tpu") if machine.topology else ("the CUDA plugin", "gpu_plan")
        raise UserError(
            f"{compiler} gives no topology {machine.name} ({str(error).splitlines()[0][:120]}): "
            f"install the extra {extra}, or choose another shape."
        ) from error
    return mesh_of(description.devices, shape)


def gpu_target(chip: Chip) -> str:
    """What XLA has to know of a GPU, as text of its GpuTargetConfigProto."""
    gpu = chip.gpu
    assert gpu is not None
    feature = "feature_extension: ACCELERATED_FEATURES" if gpu.capability == (9, 0) else ""
    major, minor = gpu.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory} threads_per_core_limit: {gpu.threads}
  core_count: {gpu.cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth} l2_cache_size: {gpu.cache} clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory} shared_memory_per_block_optin: {gpu.shared_memory - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{gpu.name}"
"""


def compile_traced(traced: Any, gpu: bool = False) -> Compiled:
    """Compiles a `Program.trace()` for the chips that its shardings name; `gpu`: they are GPUs."""
    try:
        compiled = traced.lower().compile(_GPU if gpu else None)
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
