"""The process that simulates MimicGen's tasks for a pool; see `robosuite.worker`."""

from wmpo_jax.envs.mimicgen.benchmark import import_robosuite
from wmpo_jax.envs.mimicgen.simulator import MimicgenSimulator
from wmpo_jax.envs.robosuite import worker

if __name__ == "__main__":
    worker.serve(MimicgenSimulator, {}, lambda protocol: import_robosuite(protocol.suite))
