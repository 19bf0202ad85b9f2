"""What has to be set before JAX starts; this module imports neither JAX nor anything that does."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

from wmpo_jax.runtime.paths import cache_folder

# Reported for MJX on XLA:CPU: with the default fusion emitters one kinematics call of the LIBERO
# arm takes a second instead of two milliseconds. The tabletop tasks cost the same either way.
_MJX_ON_CPU = "--xla_cpu_use_fusion_emitters=false"

# What Linux shows there of TPUs (two kinds of drivers), NVIDIA's and AMD's GPUs, and WSL2's.
_DEV = Path("/dev")
_ACCELERATORS = ("accel*", "vfio/*", "nvidia*", "kfd", "dxg")


def has_fusion_emitters_flag() -> bool:
    """Whether this JAX accepts the name; 0.11 does not, and an unknown one ends the process."""
    return tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11)


def prepare(cpu_devices: int = 1) -> None:
    """Sets XLA flags and the compilation cache. Call it before the first `import jax`.

    What the user has put in XLA_FLAGS, JAX_COMPILATION_CACHE_DIR or JAX_PLATFORMS wins.

    Args:
      cpu_devices: pretend devices that XLA makes of the CPU.
    """
    flags = [f"--xla_force_host_platform_device_count={cpu_devices}"]
    if has_fusion_emitters_flag():
        flags.append(_MJX_ON_CPU)
    theirs = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.partition("=")[0] not in theirs]
    os.environ["XLA_FLAGS"] = " ".join([*missing, theirs]).strip()
    cache = cache_folder("xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    # Small programs too: a tiny run compiles hundreds of them.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # TensorFlow only writes events for TensorBoard here; its notes on devices do not matter.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if _compilers_alone():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _compilers_alone() -> bool:
    """Whether libtpu or the CUDA plugin is here, to compile with, and no accelerator is.

    JAX would start them all the same, and they would complain on stderr.
    """
    found = any(True for pattern in _ACCELERATORS for _ in _DEV.glob(pattern))
    compilers = ("libtpu", "jax_cuda12_plugin")
    return not found and any(importlib.util.find_spec(name) for name in compilers)


def compile_only() -> None:
    """Keeps JAX on the CPU and libtpu from looking for chips: programs are compiled, not run."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # libtpu allows one process per machine with chips; one that only compiles needs no lock.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def restart_with_huge_pages() -> None:
    """Starts this process again, once, with glibc asking the kernel for huge pages.

    XLA:CPU allocates and frees its buffers in every step. In a synthetic gradient step on arrays
    of 3 to 13 MB, huge pages turned 1.4 million page faults in 20 steps into 12 thousand and
    saved a fifth of the CPU time; no stage of a run has been measured with and without.

    glibc reads the setting only when a process starts, hence the restart. Other systems ignore
    the variable. Only for the entry point of a program, never for a notebook or a test.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
