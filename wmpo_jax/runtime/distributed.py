"""Several hosts as one computer."""

import os

import jax

from wmpo_jax.runtime.errors import UserError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize(cluster: bool) -> None:
    """Joins the other hosts; call it before anything asks JAX for devices.

    Args:
      cluster: the hosts find each other, as on TPU pods and under Slurm. Otherwise they do when
        JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, and
        this is a single host when none of them is.

    Raises:
      UserError: some of the three variables are set and others are not.
    """
    values = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if cluster:
        jax.distributed.initialize()
    elif len(values) == len(_VARIABLES):
        address, processes, index = (values[name] for name in _VARIABLES)
        jax.distributed.initialize(address, int(processes), int(index))
    elif values:
        missing = [name for name in _VARIABLES if name not in values]
        raise UserError(f"{' and '.join(values)} is set but {' and '.join(missing)} is not.")
