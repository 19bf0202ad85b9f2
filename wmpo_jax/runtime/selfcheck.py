"""What a machine is, for the report of a run and for reports of bugs.

python -m wmpo_jax.runtime.selfcheck
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

_PACKAGES = ("wmpo_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "mujoco", "numpy")
_EXTRAS = ("torch", "tensorflow-cpu", "tensorflow", "tensorboard", "simplejpeg")


def facts(folder: Path) -> dict[str, str]:
    """Versions, devices, memory and a computation, as name -> words.

    Args:
      folder: whose disk is looked at.
    """
    device = jax.devices()[0]
    found = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "devices": f"{jax.device_count()} x {device.device_kind} on {jax.process_count()} host(s)",
        "cores": f"{os.cpu_count()}",
        "memory": f"{_memory_bytes() / 2**30:.1f} GiB",
        "free disk": f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "matrix product": _product(),
    }
    return found | {name: _version(name) for name in (*_PACKAGES, *_EXTRAS)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _product() -> str:
    """Whether the first device multiplies at all: drivers that load may still fail to."""
    ones = jnp.ones((64, 64))
    return "right" if float((ones @ ones).sum()) == 64.0**3 else "WRONG"


def main() -> int:
    """Prints a line per fact."""
    for name, value in facts(Path.cwd()).items():
        print(f"{name:17} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
