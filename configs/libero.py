"""LIBERO: the real benchmark, its scenes and its tasks; and the networks at their released sizes.

    python -m wmpo_jax.plan --config=configs/libero.py --topology=80GB:8
    python -m wmpo_jax.plan --config=configs/libero.py:lora --topology=80GB:1
    python -m wmpo_jax.main --config=configs/libero.py:smoke    # every stage on real scenes
    python -m wmpo_jax.main --config=configs/libero.py:tiny     # whole episodes, small networks
    python -m wmpo_jax.main --config=configs/libero.py:evaluate_imported \\
        --stages=evaluate_imported --config.evaluate_imported.folder=ckpt/policy   # its score

Needs what `bash launch/setup.sh libero` installs.

`:smoke` lets all stages run for a few steps on episodes of 16 actions, in which nothing can
succeed; that takes five to ten minutes on two cores. `:tiny` gives whole episodes to networks of a
million parameters at 64 pixels; it has not been run, and success is not expected.

`:evaluate_imported` is the public evaluation of an imported policy: 10 tasks x 50 stored initial
states at 256 pixels. Tests run it with a small random policy in a stand-in for the simulator; no
released policy was at hand. 7 B parameters in bfloat16 are 15 GB; a worker wants a core and 2 GB of
memory.

Without a variant it holds the released sizes: OpenVLA-7B, STDiT3-XL, the SDXL autoencoder and
VideoMAE-B at 256 x 256, with the reference's learning rates and global batch sizes:

    python -m wmpo_jax.main --config=configs/libero.py --config.data.source=RLDS_FOLDER \\
        --config.networks.weights.policy=ckpt/policy --config.sft.steps=0 \\
        --config.networks.weights.world_model=ckpt/wm --config.networks.weights.autoencoder=ckpt/vae

Tests run these stages with small checkpoints in the released formats; nothing has been trained at
the released sizes. `:lora` trains adapters beside a frozen policy. `:mid` is the released form with
a policy of 0.6 B and a world model of 0.3 B parameters, for one GPU (docs/performance.md).

Without data.source, demonstrations are scripted pick-and-places through LIBERO's own controller.
Their frames are held in memory, and a copy on every device: 256-pixel demonstrations by the
thousand belong on disk.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "", "lora", "mid", "tiny", "smoke" or "evaluate_imported"."""
    config = ConfigDict()
    config.seed = 0
    config.task = "libero_spatial"  # any of libero_{spatial,object,goal,10,90}
    config.image_size = 64
    config.cpu_devices = 2
    # Precision of matrix products: float32, bfloat16 (sums in float32), or auto: bfloat16 where the
    # hardware has units for it. Parameters, norms and losses are float32 either way.
    config.products = "auto"
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.tensorboard = True
    config.writers = ""  # further metric writers: csv, module:Class (docs/extending.md)

    config.libero = ConfigDict(
        {
            "tasks": (0, 1),  # of the suite; () means all
            "physics": "c",  # or "mjx", for tasks that docs/libero_mjx.md lists
            "horizon": 0,  # actions that count; 0 means the suite's own
            "workers": 2,  # processes, 2 GB and a core each
            "wave": 8,  # episodes of one task that are played together, the policy's batch
        }
    )
    config.demos = ConfigDict({"episodes": 40, "noise": 0.05})
    # Motion that knows no goal, for the world model.
    config.play = ConfigDict({"episodes": 80, "noise": 0.0})

    config.policy = ConfigDict({"bins": 64, "temperature": 1.6})
    config.sft = ConfigDict(
        {
            "steps": 2000,
            "optimizer": "adamw",
            "batch_size": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "soft_label_sigma": 1.0,
            "augment": False,  # random crops and colors, as OpenVLA is trained with
            "checkpoint_every": 200,
        }
    )
    config.collect = ConfigDict({"starts": 8, "group_size": 8})
    config.autoencoder = ConfigDict(
        {
            "steps": 2000,
            "batch_size": 32,
            "learning_rate": 4e-3,
            "kl_weight": 1e-7,
            "checkpoint_every": 200,
        }
    )
    config.world_model = ConfigDict(
        {
            "hidden": 128,
            "depth": 3,
            "heads": 4,
            "demo_fraction": 0.2,
            "history": 4,
            "pretrain_steps": 2000,
            "align_steps": 1000,
            "align_rollout_fraction": 0.15,
            "batch_size": 16,
            "optimizer": "muon",
            "learning_rate": 3e-3,
            "prediction": "residual",
            "history_noise": 0.05,
            "timestep_shift": 20.0,
            "self_forcing": 0.4,
            "ema_decay": 0.995,
            "sampling_steps": 1,
            "checkpoint_every": 100,
        }
    )
    config.reward = ConfigDict(
        {
            "window": 8,
            # First frame of the first window that counts: success counts from action 40 on.
            "min_step": 33,
            "steps": 500,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "validation_fraction": 0.25,
            "checkpoint_every": 100,
        }
    )
    config.gates = ConfigDict(
        {
            "episodes": 32,
            "max_rate_gap": 0.05,
            "min_agreement": 0.85,
            "min_precision": 0.75,
            "enforce": False,
        }
    )
    config.improve = ConfigDict(
        {
            "iterations": 8,
            "groups": 8,
            "group_size": 8,
            "attempts": 1,
            "epochs": 1,
            "minibatch": 32,
            "learning_rate": 1e-4,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "grad_clip": 1.0,
            "weight_decay": 0.0,
            "require_mixed": False,  # a policy of this size may never succeed
            "checkpoint_every": 1,
        }
    )
    # Real checks during RL; every episode costs simulation. 0 episodes of budget: no checks.
    config.monitor = ConfigDict({"every": 4, "episodes": 32, "budget": 0})
    config.oracle = ConfigDict({"iterations": 1, "groups": 8, "min_gain": 0.0})
    config.grpo_on_rollouts = ConfigDict({"settings": ((4, 1e-4),)})
    config.evaluate = ConfigDict(
        {
            "primary": "greedy",
            "episodes": 64,  # of the 50 stored initial states per task
            "batch_size": 32,
            "videos": 4,
        }
    )
    # For stage `evaluate_imported` alone.
    config.evaluate_imported = ConfigDict(
        {
            "folder": "",  # made by `python -m wmpo_jax.convert import --kind=policy`
            "statistics": "",  # their key; "" means the suite, or <suite>_no_noops
            "lanczos_resize": True,  # to 224 pixels, before the crop
            "jpeg": True,  # the round trip of OpenVLA-OFT's evaluation; needs the extra `jpeg`
        }
    )
    if variant in ("", "lora"):
        _released_sizes(config, lora=variant == "lora")
    elif variant == "mid":
        _released_sizes(config, lora=False)
        _mid(config)
    elif variant == "smoke":
        _shrink(config)
    elif variant == "evaluate_imported":
        _score(config)
    elif variant != "tiny":
        raise ValueError("choose lora, mid, tiny, smoke, evaluate_imported or none")
    return config


def _score(config: ConfigDict) -> None:
    """All tasks and all stored initial states, at the size that policies were trained on."""
    config.image_size = 256
    config.libero.update(tasks=(), workers=16, wave=16)
    config.evaluate.update(episodes=500, batch_size=500)


def _shrink(config: ConfigDict) -> None:
    """One task, episodes of two chunks, a few training steps, 32 pixels."""
    config.image_size = 32
    config.libero.update(tasks=(0,), horizon=16, wave=4)
    config.demos.episodes = 8
    config.play.episodes = 8
    config.sft.update(steps=40, checkpoint_every=20)
    config.collect.update(starts=2, group_size=4)
    config.autoencoder.update(steps=40, checkpoint_every=20)
    config.world_model.update(pretrain_steps=20, align_steps=10, checkpoint_every=10)
    config.reward.update(min_step=-6, steps=20, checkpoint_every=10)
    config.gates.episodes = 4
    config.improve.update(
        iterations=2, groups=2, group_size=4, minibatch=8, epochs=1, checkpoint_every=1
    )
    config.oracle.update(iterations=1, groups=2)
    config.evaluate.update(episodes=4, batch_size=4, videos=2)


def _released_sizes(config: ConfigDict, lora: bool) -> None:
    """`lora`: adapters beside frozen bfloat16 weights instead of training all of the policy."""
    config.image_size = 256
    config.cpu_devices = 1
    config.mesh.update(data=1, fsdp=-1, tensor=1)
    config.libero.update(tasks=(), workers=16, wave=64)
    # Demonstrations on disk (RLDS, HDF5, LeRobot, tars): python -m wmpo_jax.data inspect FOLDER
    config.data = ConfigDict(
        {
            "source": "",
            "on_bad": "skip",
            "verify": "all",
            # Of a single dataset; "" and 0: as the file says. LIBERO's HDF5 files want 180 degrees.
            "camera": "",
            "instruction": "",
            "rotation": 0,
            "chunk": 8,
        }
    )
    # Presets of the network classes, or, under weights, folders that `convert import` made.
    config.networks = ConfigDict(
        {
            "policy": "openvla_7b",
            "world_model": "xl_2",
            "autoencoder": "sdxl",
            "reward": "base",
            "weights": {"policy": "", "world_model": "", "autoencoder": "", "reward": ""},
            "statistics": "",  # of an imported policy: their key; "" means the suite
            "dtype": "bfloat16",  # of computation; trained parameters are float32
        }
    )
    config.policy = ConfigDict(
        {
            "bins": 256,
            "temperature": 1.6,
            "lora_rank": 32 if lora else 0,  # 0: full fine-tuning
            "lora_alpha": 16.0,
        }
    )
    # batch_size counts frames or windows of one micro-batch, of which a step adds up `accumulate`.
    config.sft.update(
        steps=150_000,
        batch_size=64,
        accumulate=1,
        learning_rate=5e-4,
        soft_label_sigma=0.0,
        augment=True,
    )
    config.collect.update(starts=16, group_size=8)
    config.autoencoder.update(steps=0, checkpoint_every=1000)  # released weights stay as they are
    config.world_model.update(
        demo_fraction=1.0,
        pretrain_steps=0,
        align_steps=50_000,  # the reference does not say when it stops
        align_rollout_fraction=0.5,
        batch_size=128,
        accumulate=1,
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.0,
        prediction="velocity",
        history_noise=0.015,
        timestep_shift=1.0,
        self_forcing=0.0,
        ema_decay=0.99,
        sampling_steps=30,
    )
    config.reward.update(
        min_step=100, steps=10_000, batch_size=64, accumulate=1, learning_rate=1e-4
    )
    config.gates.episodes = 256
    config.improve = ConfigDict(
        {
            "iterations": 100,
            "groups": 64,
            "group_size": 8,
            "attempts": 4,
            "epochs": 1,
            "minibatch": 128,  # episodes
            "micro_chunks": 7,  # of 28 decisions per episode go through the policy at once
            "learning_rate": 5e-6,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "grad_clip": 1.0,
            "weight_decay": 0.01,
            "require_mixed": True,
            "checkpoint_every": 1,
        }
    )
    config.evaluate.update(episodes=500, batch_size=500)


def _mid(config: ConfigDict) -> None:
    """Nothing is released at this size: all but the autoencoder is trained from nothing."""
    config.networks.update(policy="mid", world_model="mid")
    config.world_model.update(pretrain_steps=50_000, demo_fraction=0.5, batch_size=64, accumulate=2)
    config.improve.update(groups=8, minibatch=64)
