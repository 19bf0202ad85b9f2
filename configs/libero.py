"""The released sizes: OpenVLA-7B, STDiT3-XL, the SDXL autoencoder and VideoMAE-B at 256 x 256.

    python -m wmpo_jax.plan --config=configs/libero.py --topology=80GB:8
    python -m wmpo_jax.plan --config=configs/libero.py:lora --topology=80GB:1

Hardware: the command above says what fits where. Nothing has been trained with it yet. Batch sizes
are global; learning rates are the reference's.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" trains all of the policy, "lora" adapters beside frozen bfloat16 weights."""
    config = ConfigDict()
    config.seed = 0
    config.image_size = 256
    config.cpu_devices = 1
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    # Presets of the network classes; they compute in bfloat16, trained parameters are float32.
    config.networks = ConfigDict(
        {
            "policy": "openvla_7b",
            "world_model": "xl_2",
            "autoencoder": "sdxl",
            "reward": "base",
        }
    )
    config.policy = ConfigDict(
        {
            "temperature": 1.6,
            "prompt_tokens": 32,  # BOS, template and instruction, padded
            "lora_rank": 0,  # 0: full fine-tuning
            "lora_alpha": 16.0,
        }
    )
    config.sft = ConfigDict(
        {
            "batch_size": 64,  # frames of one micro-batch
            "accumulate": 1,  # micro-batches of one step
            "learning_rate": 5e-4,
            "steps": 150_000,
            "weight_decay": 0.01,
        }
    )
    config.world_model = ConfigDict(
        {
            "batch_size": 128,  # windows of one micro-batch
            "accumulate": 1,
            "learning_rate": 1e-4,
            "steps": 50_000,  # of alignment; the reference does not say when it stops
            "ema_decay": 0.99,
            "sampling_steps": 30,
        }
    )
    config.reward = ConfigDict(
        {
            "batch_size": 64,  # windows
            "accumulate": 1,
            "learning_rate": 1e-4,
            "steps": 10_000,
            "weight_decay": 1e-4,
            "threshold": 0.82,
            "min_step": 100,
        }
    )
    config.improve = ConfigDict(
        {
            "iterations": 100,
            "groups": 64,
            "group_size": 8,
            "attempts": 4,
            "chunks": 32,  # of 8 actions, in an imagined episode
            "imagined_at_once": 512,  # episodes; fewer are imagined one batch after the other
            "epochs": 1,
            "minibatch": 128,  # episodes
            "micro_chunks": 8,  # decisions per episode that go through the policy at once
            "learning_rate": 5e-6,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "grad_clip": 1.0,
            "weight_decay": 0.01,
            "require_mixed": True,
            "checkpoint_every": 1,
        }
    )
    if variant == "lora":
        config.policy.lora_rank = 32
    elif variant:
        raise ValueError(f"configs/libero.py knows the variant lora, not {variant!r}")
    return config
