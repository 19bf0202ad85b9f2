"""The process that simulates LIBERO for a pool; see `robosuite.worker`."""

from wmpo_jax.envs.libero.benchmark import import_libero
from wmpo_jax.envs.libero.scripts import ACTORS
from wmpo_jax.envs.libero.simulator import LiberoSimulator
from wmpo_jax.envs.robosuite import worker

if __name__ == "__main__":
    worker.serve(LiberoSimulator, ACTORS, lambda _: import_libero("libero.libero.envs"))
