"""What has to be set before JAX starts; this module imports neither JAX nor anything that does."""

import os
import sys
from pathlib import Path

# Reported for MJX on XLA:CPU: with the default fusion emitters one kinematics call of the LIBERO
# arm takes a second instead of two milliseconds. The tabletop tasks cost the same either way.
_MJX_ON_CPU = "--xla_cpu_use_fusion_emitters=false"


def prepare(cpu_devices: int = 1) -> None:
    """Sets XLA flags and the compilation cache. Call it before the first `import jax`.

    What the user has put in XLA_FLAGS or JAX_COMPILATION_CACHE_DIR wins.

    Args:
      cpu_devices: pretend devices that XLA makes of the CPU.
    """
    flags = [_MJX_ON_CPU, f"--xla_force_host_platform_device_count={cpu_devices}"]
    theirs = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.partition("=")[0] not in theirs]
    os.environ["XLA_FLAGS"] = " ".join([*missing, theirs]).strip()
    cache = Path("~/.cache/wmpo_jax/xla").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    # Small programs too: a tiny run compiles hundreds of them.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def compile_only() -> None:
    """Keeps JAX on the CPU and libtpu from looking for chips: programs are compiled, not run."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def restart_with_huge_pages() -> None:
    """Starts this process again, once, with glibc asking the kernel for huge pages.

    XLA:CPU allocates and frees its buffers in every step. In a synthetic gradient step on arrays
    of 3 to 13 MB, huge pages turned 1.4 million page faults in 20 steps into 12 thousand and
    saved a fifth of the CPU time; no stage of a run has been measured with and without.

    glibc reads the setting only when a process starts, hence the restart. Other systems ignore
    the variable. Only for the door of a program, never for a notebook or a test.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
