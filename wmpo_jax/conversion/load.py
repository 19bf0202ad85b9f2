"""Released models as ready-to-call objects.

    policy = load_policy("checkpoints/coffee_sft")            # folders that `convert import` made
    actions_BKA = policy(frames_BHWC, ["coffee", "coffee"])   # uint8 frames in, robot actions out

    world = load_world_model("checkpoints/coffee_wm", "checkpoints/vae")
    history = world.encode(frames_BTHWC, key)                 # 4 frames
    frames_BKHWC = world.decode(world.predict(history, actions_BKA, key))

    reward_model = load_reward_model("checkpoints/coffee_rm", threshold=0.82)
    complete_B, finish_step_B = reward_model(video_BTHWC)

They are the agents that train here; all arrays stay on the device, and all three can be passed to
`jax.jit`'s functions: parameters are their leaves.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wmpo_jax.agents.autoencoder import make_autoencoder
from wmpo_jax.agents.policy import Policy, make_policy
from wmpo_jax.agents.reward_model import SuccessRule, VideoRewardModel, make_reward_model
from wmpo_jax.agents.world_model import FlowConfig, VideoWorldModel, make_world_model
from wmpo_jax.conversion.companions import check_width, read_tokenizer
from wmpo_jax.conversion.documents import read_config, read_object
from wmpo_jax.conversion.kinds import compute_in
from wmpo_jax.conversion.store import ASSETS, Place, Store
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.transforms import ImageTransformConfig
from wmpo_jax.models.vla import action_tokens
from wmpo_jax.runtime.errors import UserError

RELEASED_IMAGE_SIZE = 256
REFERENCE_MIN_STEPS = 100  # first frame of the first window that the reference looks at


class ImportedPolicy(struct.PyTreeNode):
    """OpenVLA-OFT with discrete tokens: frames and instructions to chunks of actions."""

    params: nnx.State
    policy: Policy = struct.field(pytree_node=False)
    statistics: ActionStatistics = struct.field(pytree_node=False)

    def __call__(self, frames_BHWC: jax.Array, instructions: Sequence[str]) -> jax.Array:
        """Greedy actions in the robot's units.

        Args:
          frames_BHWC: uint8 camera frames, any size.
          instructions: one per frame, such as "insert the square into the stick".

        Returns:
          actions_BKA: float32, un-normalized by the statistics of the checkpoint.
        """
        prompt_BL, length_B = self.policy.tokenizer.encode_batch(instructions)
        same_length = bool((length_B == length_B[0]).all())
        logits_BKAV = _policy_logits(
            self, frames_BHWC, prompt_BL, None if same_length else length_B
        )
        classes = jnp.argmax(logits_BKAV, axis=-1)
        normalized = action_tokens.decode(classes, self.policy.bins)
        return jnp.asarray(self.statistics.unnormalize(normalized))

    def logits(
        self, frames_BHWC: jax.Array, prompt_BL: jax.Array, length_B: jax.Array | None = None
    ) -> jax.Array:
        """float32 logits_BKAV of prompts, see `agents.policy.Policy.prompted_logits`."""
        return self.policy.prompted_logits(self.params, frames_BHWC, prompt_BL, length_B)


_policy_logits = jax.jit(ImportedPolicy.logits)


class ImportedRewardModel(struct.PyTreeNode):
    """A reward model with the threshold that belongs to its checkpoint; for one instruction."""

    model: VideoRewardModel
    rule: SuccessRule = struct.field(pytree_node=False)

    def __call__(self, video_BTHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """uint8 videos -> complete_B bool and finish_step_B int32, by the reference's rule."""
        instruction_id_B = jnp.zeros(len(video_BTHWC), jnp.int32)
        return self.model.outcomes(video_BTHWC, instruction_id_B, self.rule)


def load_policy(
    folder: str | Path,
    *,
    unnorm_key: str | None = None,
    dtype: Any = jnp.bfloat16,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
    lanczos_resize: bool = True,
    jpeg: bool = False,
) -> ImportedPolicy:
    """A released policy.

    Args:
      folder: made by `convert import --kind=policy`; its assets hold tokenizer.json, the
        statistics and, if the original had it, preprocessor_config.json.
      unnorm_key: which statistics un-normalize actions; needed when there are several.
      dtype, param_dtype: of computation and of the parameters.
      place: sharding of each parameter, see `spread_over`; None: the default device.
      lanczos_resize: as for imagined frames; False for 256-pixel simulator frames, as WMPO does.
      jpeg: compress frames first, as WMPO does with imagined ones (on the host, slow).

    Raises:
      UserError: no such checkpoint, tokenizer or statistics.
    """
    store = _open(folder, "policy")
    assets = store.folder / ASSETS
    policy = make_policy(
        compute_in(store.config, dtype),
        transform_config(store, lanczos_resize, jpeg),
        read_tokenizer(assets, store.config.llama.vocab_size),
        instructions=("",),
    )
    statistics = load_statistics(assets, unnorm_key)
    check_width(statistics, store.config.action_dim, f"dataset_statistics.json of {assets}")
    return ImportedPolicy(store.params(param_dtype, place)[1], policy, statistics)


def load_world_model(
    folder: str | Path,
    autoencoder: str | Path,
    *,
    steps: int = FlowConfig.sampling_steps,
    image_size: int = RELEASED_IMAGE_SIZE,
    dtype: Any = jnp.bfloat16,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
) -> VideoWorldModel:
    """A released world model with its autoencoder (folders of the two kinds).

    Args:
      steps: Euler steps per chunk.
      image_size: of the frames, in pixels.
    """
    store, frames = _open(folder, "world_model"), _open(autoencoder, "autoencoder")
    return make_world_model(
        compute_in(store.config, dtype),
        FlowConfig(image_size, sampling_steps=steps),
        store.params(param_dtype, place)[1],
        make_autoencoder(compute_in(frames.config, dtype), frames.params(param_dtype, place)[1]),
    )


def load_reward_model(
    folder: str | Path,
    *,
    threshold: float,
    min_steps: int = REFERENCE_MIN_STEPS,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
) -> ImportedRewardModel:
    """A released reward model; WMPO's thresholds: coffee 0.82, stack_three 0.66,
    three_piece_assembly 0.62, square 0.96."""
    store = _open(folder, "reward")
    params = store.params(param_dtype, place)[1]
    model = make_reward_model(compute_in(store.config, dtype), params)
    return ImportedRewardModel(model, SuccessRule(threshold, min_steps))


def spread_over(mesh: Mesh, axis: str = "fsdp") -> Place:
    """Each parameter split over a mesh axis along its largest dimension that divides evenly."""
    parts = mesh.shape[axis]

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        even = [size if size % parts == 0 else 0 for size in shape]
        spec: list[str | None] = [None] * len(shape)
        if max(even, default=0) >= parts:
            spec[int(np.argmax(even))] = axis
        return NamedSharding(mesh, PartitionSpec(*spec))

    return place


def load_statistics(assets: Path, key: str | None) -> ActionStatistics:
    """From dataset_statistics.json, or from `norm_stats` of config.json where that is missing."""
    path = assets / "dataset_statistics.json"
    entries = read_object(path) if path.is_file() else read_config(assets).get("norm_stats", {})
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{assets} has no dataset_statistics.json: copy it beside the weights.")
    if key is None and len(entries) == 1:
        (key,) = entries
    if key not in entries and f"{key}_no_noops" in entries:
        key = f"{key}_no_noops"  # LIBERO's data without idle steps, which OpenVLA-OFT trained on
    if key is None or key not in entries:
        what = "several statistics" if key is None else f"no statistics for '{key}'"
        raise UserError(
            f"{assets} has {what}: name one of {', '.join(sorted(entries))} as unnorm_key (in a "
            "config networks.statistics or evaluate_imported.statistics)."
        )
    entry = entries[key]
    if not isinstance(entry, dict) or not isinstance(entry.get("action"), dict):
        raise UserError(f"Statistics '{key}' of {assets} have no entry `action`: copy them again.")
    return ActionStatistics.from_json(entry["action"], f"'{key}' of {assets}")


def _open(folder: str | Path, kind: str) -> Store:
    store = Store(Path(folder))
    if store.kind.name != kind:
        raise UserError(f"{folder} is a {store.kind.name}, not a {kind}.")
    return store


def transform_config(store: Store, lanczos_resize: bool, jpeg: bool) -> ImageTransformConfig:
    """OpenVLA's, with the two normalizations of preprocessor_config.json where there is one."""
    config = dataclasses.replace(
        ImageTransformConfig.openvla(lanczos_resize=lanczos_resize, jpeg=jpeg),
        size=store.config.image_size,
    )
    path = store.folder / ASSETS / "preprocessor_config.json"
    towers = read_object(path).get("tvf_normalize_params", []) if path.is_file() else []
    if len(towers) != 2:
        return config
    means, stds = (tuple(tuple(tower[key]) for tower in towers) for key in ("mean", "std"))
    return dataclasses.replace(config, means=means, stds=stds)
