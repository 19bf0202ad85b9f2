"""The sizes that are measured: configs of runs, with batches for one machine."""

from typing import NamedTuple

from ml_collections import ConfigDict

from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

# Episodes of two chunks instead of 32, since every chunk costs the same.
SHORT = ("libero.horizon=16", "improve.micro_chunks=2")
PRECISIONS = ("float32", "bfloat16")


class Preset(NamedTuple):
    """`accelerator`: too large for a CPU."""

    config: str
    overrides: tuple[str, ...] = ()
    accelerator: bool = False


PRESETS = {
    "tiny": Preset("configs/tiny.py"),
    # Windows of 4 + 8 frames of 16 x 16 latents, four at a time.
    "small": Preset("configs/libero.py:mid", (
        *SHORT, "image_size=128",
        "networks.policy=small", "networks.world_model=small", "networks.autoencoder=small",
        "networks.reward=small", "networks.dtype=float32",
        "world_model.sampling_steps=10", "world_model.batch_size=4",
        "world_model.accumulate=1", "sft.batch_size=4", "reward.batch_size=4",
        "autoencoder.steps=1", "autoencoder.batch_size=4",
        "improve.groups=1", "improve.group_size=4", "improve.minibatch=4",
    )),
    "mid": Preset("configs/libero.py:mid", (
        *SHORT, "improve.groups=4", "improve.minibatch=32", "world_model.batch_size=16",
        "sft.batch_size=32", "reward.batch_size=32",
    ), accelerator=True),
    "released": Preset("configs/libero.py", (*SHORT, "improve.groups=2", "improve.minibatch=16",
        "world_model.batch_size=4", "sft.batch_size=4", "reward.batch_size=16"), accelerator=True),
}  # fmt: skip


def preset_config(name: str, precision: str, overrides: tuple[str, ...] = ()) -> ConfigDict:
    """The config of a preset, whose products are in `precision`.

    Raises:
      UserError: no such preset or field.
    """
    if name not in PRESETS:
        raise UserError(f"There is no preset {name!r}; choose from {', '.join(PRESETS)}.")
    if precision not in PRECISIONS:
        raise UserError(f"--precision is {precision!r}; choose {' or '.join(PRECISIONS)}.")
    preset = PRESETS[name]
    config = load_config(preset.config, [*preset.overrides, *overrides])
    config.products = precision
    if "networks" in config and precision == "float32":
        config.networks.dtype = precision
    return config
