"""MimicGen Coffee: a pod into the machine, and its lid shut, in 256 actions.

    python -m wmpo_jax.plan --config=configs/mimicgen_coffee.py --topology=80GB:8
    python -m wmpo_jax.main --config=configs/mimicgen_coffee.py \\
        --config.data.source=DEMONSTRATIONS \\
        --config.networks.weights.policy=ckpt/policy --config.sft.steps=0 \\
        --config.networks.weights.world_model=ckpt/wm --config.networks.weights.autoencoder=ckpt/vae

The reference reports, over 128 episodes: base policy 43.8 %, WMPO 61.7 % with 128 real episodes
and 75.0 % with 1280. Its reward model's threshold is 0.82; here stage `reward`
fits the threshold.
Nothing has been trained with this page; needs MimicGen (configs/mimicgen_base.py) and its hardware
is what `plan` says.
"""

from ml_collections import ConfigDict

from configs import mimicgen_base


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" or "lora"."""
    return mimicgen_base.released(
        "mimicgen_coffee",
        micro_chunks=16,
        statistics="coffee_d0_300_demos",
        variant=variant,
    )
