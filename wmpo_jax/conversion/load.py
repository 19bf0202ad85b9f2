"""Released models as ready-to-call objects.

    policy = load_policy("checkpoints/coffee_sft")            # folders that `convert import` made
    actions_BKA = policy(frames_BHWC, ["coffee", "coffee"])   # uint8 frames in, robot actions out

    world = load_world_model("checkpoints/coffee_wm", "checkpoints/vae")
    history = world.encode(frames_BTHWC, key)                 # 4 frames
    frames_BKHWC = world.decode(world.predict(history, actions_BKA, key))

    reward model = load_reward_model("checkpoints/coffee_rm", threshold=0.82)
    complete_B, finish_step_B = reward model(video_BTHWC)

All arrays stay on the device, and all three can be passed to `jax.jit`'s functions: parameters are
their leaves.
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

from wmpo_jax.algorithm import flow
from wmpo_jax.conversion.kinds import compute_in
from wmpo_jax.conversion.store import ASSETS, Place, Store, read_config
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.transforms import ImageTransform, ImageTransformConfig
from wmpo_jax.models.autoencoder_kl import decode_frames, encode_frames
from wmpo_jax.models.videomae import find_success, score_windows
from wmpo_jax.models.vla import PromptTokenizer, action_tokens
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json

REFERENCE_STEPS = 30  # Euler steps of the released inference config
REFERENCE_MIN_STEPS = 100  # the reference looks for no success in earlier frames


class Policy(struct.PyTreeNode):
    """OpenVLA-OFT with discrete tokens: frames and instructions to chunks of actions."""

    params: nnx.State
    graphdef: Any = struct.field(pytree_node=False)
    transform: ImageTransform = struct.field(pytree_node=False)
    tokenizer: PromptTokenizer = struct.field(pytree_node=False)
    statistics: ActionStatistics = struct.field(pytree_node=False)

    def __call__(self, frames_BHWC: jax.Array, instructions: Sequence[str]) -> jax.Array:
        """Greedy actions in the robot's units.

        Args:
          frames_BHWC: uint8 camera frames, any size.
          instructions: one per frame, such as "insert the square into the stick".

        Returns:
          actions_BKA: float32, un-normalized by the statistics of the checkpoint.
        """
        prompt_BL, length_B = self.tokenizer.encode_batch(instructions)
        same_length = bool((length_B == length_B[0]).all())
        logits_BKAV = _policy_logits(
            self, frames_BHWC, prompt_BL, None if same_length else length_B
        )
        classes = jnp.argmax(logits_BKAV, axis=-1)
        normalized = action_tokens.decode(classes, logits_BKAV.shape[-1])
        return jnp.asarray(self.statistics.unnormalize(normalized))

    def logits(
        self, frames_BHWC: jax.Array, prompt_BL: jax.Array, length_B: jax.Array | None = None
    ) -> jax.Array:
        """float32 logits_BKAV, as `VLA.__call__` gives them."""
        network = nnx.merge(self.graphdef, self.params)
        return network(self.transform(frames_BHWC), prompt_BL, length_B)


_policy_logits = jax.jit(Policy.logits)


class WorldModel(struct.PyTreeNode):
    """`algorithm.imagination.WorldModel`: rectified flow in the latents of the autoencoder.

    Attributes:
      history: condition frames of a window.
      steps: Euler steps per chunk.
    """

    params: nnx.State
    video_params: nnx.State
    graphdef: Any = struct.field(pytree_node=False)
    video_graphdef: Any = struct.field(pytree_node=False)
    history: int = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array:
        """uint8 frames -> scaled latents, sampled from the posterior."""
        return encode_frames(self._video(), frames_BTHWC, key)

    def decode(self, latents_BThwc: jax.Array) -> jax.Array:
        """Scaled latents -> uint8 frames."""
        return decode_frames(self._video(), latents_BThwc)

    def predict(
        self, history_BThwc: jax.Array, actions_BKA: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Latents of the next K frames.

        Args:
          history_BThwc: the last `history` frames' latents; an episode begins with copies of its
            first frame.
          actions_BKA: normalized actions in [-1, 1], the gripper as the policy gave it.
        """
        network = nnx.merge(self.graphdef, self.params)
        pixels = history_BThwc.shape[2] * self._video().config.downsampling
        cache = network.encode_history(history_BThwc, pixels, pixels)
        batch, chunk = actions_BKA.shape[:2]
        noise = jax.random.normal(key, (batch, chunk, *history_BThwc.shape[2:]))

        def velocity(noisy_BKhwc: jax.Array, timestep_B: jax.Array) -> jax.Array:
            output = network.denoise(noisy_BKhwc, timestep_B, actions_BKA, cache, pixels, pixels)
            return output[..., : noisy_BKhwc.shape[-1]]  # the rest is an untrained sigma

        ratio = flow.transform_ratio(pixels, pixels, self.history + chunk)
        return flow.euler_sample(velocity, noise, self.steps, ratio)

    def _video(self):
        return nnx.merge(self.video_graphdef, self.video_params)


class RewardModel(struct.PyTreeNode):
    """`algorithm.imagination.RewardModel` with the threshold that belongs to its checkpoint."""

    params: nnx.State
    graphdef: Any = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False)
    threshold: float = struct.field(pytree_node=False)
    min_steps: int = struct.field(pytree_node=False)

    def __call__(self, video_BTHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """uint8 video -> complete_B bool and finish_step_B int32, by the reference's scan."""
        network = nnx.merge(self.graphdef, self.params)
        logits = score_windows(network, video_BTHWC, min_steps=self.min_steps)
        return find_success(
            jax.nn.sigmoid(logits[..., 1]),
            self.threshold,
            window=self.window,
            min_steps=self.min_steps,
        )

    def score(self, frames_BTHWC: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
        """Success probability of every window, float32 [B, T - window + 1]; there is one goal."""
        network = nnx.merge(self.graphdef, self.params)
        return jax.nn.sigmoid(score_windows(network, frames_BTHWC)[..., 1])


def load_policy(
    folder: str | Path,
    *,
    unnorm_key: str | None = None,
    dtype: Any = jnp.bfloat16,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
    lanczos_resize: bool = True,
    jpeg: bool = False,
) -> Policy:
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
    graphdef, params = _network(store, dtype, param_dtype, place)
    return Policy(
        params,
        graphdef,
        ImageTransform(transform_config(store, lanczos_resize, jpeg)),
        PromptTokenizer(store.folder / ASSETS / "tokenizer.json"),
        load_statistics(store.folder / ASSETS, unnorm_key),
    )


def load_world_model(
    folder: str | Path,
    autoencoder: str | Path,
    *,
    steps: int = REFERENCE_STEPS,
    dtype: Any = jnp.bfloat16,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
) -> WorldModel:
    """A released world model with its autoencoder (folders of the two kinds)."""
    store = _open(folder, "world_model")
    graphdef, params = _network(store, dtype, param_dtype, place)
    video = _network(_open(autoencoder, "autoencoder"), dtype, param_dtype, place)
    return WorldModel(params, video[1], graphdef, video[0], store.config.history, steps)


def load_reward_model(
    folder: str | Path,
    *,
    threshold: float,
    min_steps: int = REFERENCE_MIN_STEPS,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    place: Place | None = None,
) -> RewardModel:
    """A released reward model; WMPO's thresholds: coffee 0.82, stack_three 0.66,
    three_piece_assembly 0.62, square 0.96."""
    store = _open(folder, "reward")
    graphdef, params = _network(store, dtype, param_dtype, place)
    return RewardModel(params, graphdef, store.config.num_frames, threshold, min_steps)


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
    entries = load_json(path) if path.is_file() else read_config(assets).get("norm_stats", {})
    if not entries:
        raise UserError(f"{assets} has no dataset_statistics.json: copy it beside the weights.")
    if key is None and len(entries) == 1:
        (key,) = entries
    if key not in entries and f"{key}_no_noops" in entries:
        key = f"{key}_no_noops"  # LIBERO's data without idle steps, which OpenVLA-OFT trained on
    if key not in entries:
        raise UserError(
            f"{assets} has no statistics for '{key}': give unnorm_key, "
            f"one of {', '.join(sorted(entries))}."
        )
    return ActionStatistics.from_json(entries[key]["action"])


def _open(folder: str | Path, kind: str) -> Store:
    store = Store(Path(folder))
    if store.kind.name != kind:
        raise UserError(f"{folder} is a {store.kind.name}, not a {kind}.")
    return store


def _network(
    store: Store, dtype: Any, param_dtype: Any, place: Place | None
) -> tuple[nnx.GraphDef, nnx.State]:
    _, params = store.params(param_dtype, place)
    graphdef, _ = store.kind.abstract(compute_in(store.config, dtype))
    return graphdef, params


def transform_config(store: Store, lanczos_resize: bool, jpeg: bool) -> ImageTransformConfig:
    """OpenVLA's, with the two normalizations of preprocessor_config.json where there is one."""
    config = dataclasses.replace(
        ImageTransformConfig.openvla(lanczos_resize=lanczos_resize, jpeg=jpeg),
        size=store.config.image_size,
    )
    path = store.folder / ASSETS / "preprocessor_config.json"
    towers = load_json(path).get("tvf_normalize_params", []) if path.is_file() else []
    if len(towers) != 2:
        return config
    means, stds = (tuple(tuple(tower[key]) for tower in towers) for key in ("mean", "std"))
    return dataclasses.replace(config, means=means, stds=stds)
