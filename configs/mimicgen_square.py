"""MimicGen Square: a square nut on its peg in 184 actions.

    python -m wmpo_jax.plan --config=configs/mimicgen_square.py --topology=80GB:8
    python -m wmpo_jax.main --config=configs/mimicgen_square.py \\
        --config.data.source=DEMONSTRATIONS \\
        --config.networks.weights.policy=ckpt/policy --config.sft.steps=0 \\
        --config.networks.weights.world_model=ckpt/wm --config.networks.weights.autoencoder=ckpt/vae

The reference reports, over 128 episodes: base policy 24.2 %, WMPO 32.8 % with 128 real episodes
and 45.3 % with 1280. Its reward model's threshold is 0.96; here stage `reward`
fits the threshold.
Nothing has been trained with this page; needs MimicGen (configs/mimicgen_base.py) and its hardware
is what `plan` says. The environment alone is tested with robosuite's own NutAssemblySquare, which
--config.task=robosuite_square names and which needs no MimicGen.
"""

from ml_collections import ConfigDict

from configs import mimicgen_base


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" or "lora"."""
    return mimicgen_base.released(
        "mimicgen_square",
        micro_chunks=23,
        statistics="square_d0_300_demos",
        variant=variant,
    )
