"""What the four MimicGen tasks of the reference share; the pages beside this one say the rest.

Networks, optimizers and batch sizes are those of configs/libero.py at the released sizes. 128 real
episodes per round (16 starts x 8) are the reference's smaller budget; its larger one is 1280:
--config.collect.starts=160.

The environment needs MimicGen, which is not on PyPI (docs/mimicgen.md):

    bash launch/setup.sh libero
    .venv-libero/bin/pip install git+https://github.com/NVlabs/mimicgen.git
"""

from ml_collections import ConfigDict

from configs import libero


def released(task: str, *, micro_chunks: int, statistics: str, variant: str) -> ConfigDict:
    """The released sizes for one task.

    Args:
      task: key of wmpo_jax.envs.mimicgen.benchmark.TASKS.
      micro_chunks: decisions that go through the policy at once while it is updated.
      statistics: key of the action statistics in the reference's policies.
      variant: "" or "lora", as in configs/libero.py.
    """
    if variant not in ("", "lora"):
        raise ValueError(f"configs/mimicgen_*.py know the variant lora, not {variant!r}")
    config = libero.get_config(variant)
    config.task = task
    del config["libero"]  # pyright: ignore[reportIndexIssue]  not in its stub
    config.mimicgen = ConfigDict(
        {
            "horizon": 0,  # actions that count; 0 means the reference's
            # A file of the reference's initial states, verl/utils/dataset/*_d0_states.pkl; "" means
            # starts of our own seeds, with which published rates are not compared.
            "states": "",
            "workers": 16,  # processes that simulate
            "wave": 64,  # episodes that are played together, the policy's batch
        }
    )
    config.networks.statistics = statistics
    # The reference gives the simulator's 256-pixel frames to the policy as they are.
    config.evaluate_imported.update(statistics=statistics, jpeg=False, lanczos_resize=False)
    config.reward.min_step = 100  # the reference's, for all tasks
    config.improve.update(micro_chunks=micro_chunks)
    config.evaluate.update(episodes=128, batch_size=128)
    return config
