"""Our programs beside PyTorch's: equal weights, inputs and shapes; each side in its own precision.

Ours are the functions that the stages call. A pair makes runs of both sides, and knows how far
their results are apart in float32.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents import autoencoder, reward_model, world_model
from wmpo_jax.agents.reward_model import VideoRewardModel
from wmpo_jax.agents.world_model import FlowConfig, VideoWorldModel
from wmpo_jax.algorithm import flow
from wmpo_jax.assembly import agents, networks
from wmpo_jax.benchmark import peers
from wmpo_jax.benchmark.cases import Case
from wmpo_jax.benchmark.measure import Prepared, random_like
from wmpo_jax.conversion.kinds import KINDS, compute_in
from wmpo_jax.conversion.state_dicts import to_state_dict
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.stdit.weights import ROTARY_NAME, rotary_frequencies
from wmpo_jax.planning.programs import program
from wmpo_jax.planning.task import planned_task
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.precision import Products
from wmpo_jax.training.state import create

Run = Callable[[], Any]
PROMPT_TOKENS = 20


@dataclasses.dataclass(frozen=True)
class Pair:
    """One program on both sides.

    Attributes:
      ours: precision -> a run of ours. theirs: how -> a run of PyTorch's.
      compared: whether both return the same array.
    """

    name: str
    ours: Callable[[str], Run]
    theirs: Callable[[peers.How], Run]
    compared: bool = True

    def error(self) -> float | None:
        """Largest difference of the results in float32, as a share of the largest number."""
        if not self.compared:
            return None
        with jax.default_matmul_precision("highest"):
            ours = self.ours("float32")()
        return difference(ours, self.theirs(peers.How("float32", compiled=False))())


def difference(ours: jax.Array, theirs: Any) -> float:
    """See `Pair.error`."""
    mine, other = np.asarray(ours, np.float64), theirs.cpu().double().numpy()
    return float(np.abs(mine - other).max() / max(np.abs(other).max(), 1e-9))


class Pairs:
    """The pairs of a preset; networks are made when they are asked for."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self._config, self._mesh = config, mesh
        self._task = planned_task(config)
        self._batch = agents.grpo_config(config).episodes
        self._random = np.random.default_rng(0)

    def named(self, name: str) -> Pair:
        """One of NAMES."""
        return {
            "sampler": self._sampler,
            "world model gradient": self._world_model_gradient,
            "reward": self._reward,
            "policy": self._policy,
            "policy update": self._policy_update,
            "decode": self._decode,
        }[name]()

    def _in(self, sizes: Any, precision: str) -> Any:
        """Sizes of a network that multiplies in `precision`, whatever the config says.

        Activations are the config's: float32 on a CPU, bfloat16 in presets for accelerators.
        """
        networks = self._config.get("networks", {"dtype": "float32"})
        dtype = networks["dtype"] if precision == "bfloat16" else "float32"
        return compute_in(sizes, jnp.dtype(dtype), cast(Products, precision))

    def _network(self, role: str, sizes: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """(our parameters, the same under the original names); nothing in them is zero."""
        kind = KINDS[role]
        _, params = create(self._mesh, lambda: kind.build(sizes))
        noise = random_like(1, params)
        params = jax.tree.map(jnp.add, params, noise)
        return params, to_state_dict(role, params, sizes)

    def _compiled(self, function: Any, *arguments: Any) -> Run:
        compiled = sharding.compiled(self._mesh, function)
        return lambda: compiled(*arguments)

    @cached_property
    def _stdit(self) -> Any:
        # Of the released form, which PyTorch has: conditioned on the action alone, a linear head.
        sizes = networks.stdit_config(self._config, self._task)
        sizes = dataclasses.replace(
            sizes, action_dim=self._task.action_dim, pred_sigma=True, fine=0, copies=0
        )
        params, weights = self._network("world_model", sizes)
        return sizes, params, {**weights, ROTARY_NAME: rotary_frequencies(sizes)}

    @cached_property
    def _latents(self) -> np.ndarray:
        """Of windows, [B, T, h, w, C]."""
        sizes, video = self._stdit[0], networks.autoencoder_config(self._config, 1.0)
        side = self._config.image_size // video.downsampling
        shape = (self._batch, sizes.frames, side, side, sizes.in_channels)
        return self._random.standard_normal(shape, np.float32)

    @cached_property
    def _actions(self) -> np.ndarray:
        shape = (self._batch, self._task.chunk, self._task.action_dim)
        return self._random.uniform(-1, 1, shape).astype(np.float32)

    def _sampler(self) -> Pair:
        sizes, params, weights = self._stdit
        steps, pixels = self._config.world_model.sampling_steps, self._config.image_size
        settings = FlowConfig(image_size=pixels, sampling_steps=steps)
        history, key = self._latents[:, : sizes.history], jax.random.key(3)
        noise = np.asarray(world_model.chunk_noise(key, jnp.asarray(history), sizes.chunk))
        ratio = flow.transform_ratio(pixels, pixels, sizes.frames)
        inputs = {
            "history_BCTHW": np.moveaxis(history, -1, 1),
            "noise_BCTHW": np.moveaxis(noise, -1, 1),
            "actions_BKA": self._actions,
            "times_N": np.asarray(flow.euler_timesteps(steps, ratio)),
            "mask_BT": self._mask(sizes),
        }

        def ours(precision: str) -> Run:
            made = self._in(sizes, precision)
            model = world_model.make_world_model(made, settings, params, None)  # pyright: ignore
            predict = self._compiled(VideoWorldModel.predict, model, history, self._actions, key)
            return lambda: jnp.moveaxis(predict(), -1, 1)

        def theirs(how: peers.How) -> Run:
            return peers.sampler(weights, sizes, pixels, inputs, how)

        return Pair(f"sampler, {steps} steps, batch {self._batch}", ours, theirs)

    def _world_model_gradient(self) -> Pair:
        sizes, params, weights = self._stdit
        pixels = self._config.image_size
        settings = FlowConfig(image_size=pixels)
        noise = self._random.standard_normal(self._latents.shape, np.float32)
        t_B = np.linspace(200.0, 900.0, self._batch, dtype=np.float32)
        mask = self._mask(sizes)
        history_t = flow.MAX_TIMESTEP * settings.history_noise
        example = flow.training_example(self._latents, noise, t_B, mask, history_t)  # pyright: ignore
        inputs = {
            "noisy_BCTHW": np.moveaxis(np.asarray(example.noisy_BTHWC), -1, 1),
            "target_BCTHW": np.moveaxis(np.asarray(example.target_BTHWC), -1, 1),
            "actions_BKA": self._actions,
            "t_B": t_B,
            "mask_BT": mask,
        }

        def ours(precision: str) -> Run:
            made = self._in(sizes, precision)
            graphdef = nnx.graphdef(nnx.eval_shape(lambda: KINDS["world_model"].build(made)))

            def loss(params: Any, *inputs: Any) -> jax.Array:
                network = nnx.merge(graphdef, params)
                return world_model.window_loss(network, settings, *inputs).mean()

            arguments = (self._latents, self._actions, noise, t_B, mask)
            step = self._compiled(jax.value_and_grad(loss), params, *arguments)
            return lambda: jax.block_until_ready(step())[0]

        def theirs(how: peers.How) -> Run:
            return peers.world_model_gradient(weights, sizes, pixels, inputs, how)

        return Pair(f"world model gradient, batch {self._batch}", ours, theirs)

    def _mask(self, sizes: Any) -> np.ndarray:
        rows = np.arange(sizes.frames) >= sizes.history
        return np.repeat(rows[None], self._batch, axis=0)

    def _reward(self) -> Pair:
        sizes = networks.videomae_config(self._config, self._task)
        sizes = dataclasses.replace(sizes, num_labels=2, head="softmax_pairs")
        params, weights = self._network("reward", sizes)
        count = sizes.num_frames - 1 + self._task.chunk
        # Frames have the network's own size, so that neither side resizes them.
        shape = (self._batch, count, sizes.image_size, sizes.image_size, 3)
        frames = self._random.integers(0, 256, shape).astype(np.uint8)
        instruction = np.zeros(self._batch, np.int32)

        def ours(precision: str) -> Run:
            made = self._in(sizes, precision)
            model = reward_model.make_reward_model(made, params)
            return self._compiled(VideoRewardModel.score, model, frames, instruction)

        def theirs(how: peers.How) -> Run:
            return peers.reward(weights, sizes, frames, how)

        return Pair(f"reward, {self._batch * self._task.chunk} windows", ours, theirs)

    @cached_property
    def _vla(self) -> Any:
        # Of the released form, whose slots are zeros.
        sizes = networks.vla_config(self._config, self._task)
        sizes = dataclasses.replace(sizes, learned_slots=False)
        return sizes, *self._network("policy", sizes)

    def _seen(self, rows: int) -> dict[str, np.ndarray]:
        """Normalized pixels and prompts."""
        sizes = self._vla[0]
        side, words = sizes.image_size, (3, sizes.action_token_begin)
        pixels = self._random.standard_normal((rows, 6, side, side), np.float32)
        prompt = self._random.integers(*words, (rows, PROMPT_TOKENS))
        return {"pixels_BCHW": pixels, "prompt_BL": prompt}

    def _policy(self) -> Pair:
        sizes, params, weights = self._vla
        inputs = self._seen(self._batch)
        pixels = np.moveaxis(inputs["pixels_BCHW"], 1, -1).copy()
        prompt = inputs["prompt_BL"].astype(np.int32)
        slots = sizes.chunk * sizes.action_dim

        def ours(precision: str) -> Run:
            made = self._in(sizes, precision)
            graphdef = nnx.graphdef(nnx.eval_shape(lambda: KINDS["policy"].build(made)))

            def logits(params: Any, *seen: Any) -> jax.Array:
                out = nnx.merge(graphdef, params)(*seen)
                return out.reshape(self._batch, slots, -1)

            return self._compiled(logits, params, pixels, prompt)

        def theirs(how: peers.How) -> Run:
            return peers.policy(weights, sizes, inputs, how)

        return Pair(f"policy, batch {self._batch}", ours, theirs)

    def _policy_update(self) -> Pair:
        """A whole update of one minibatch; ours prepares its frames too, which PyTorch is given."""
        sizes, _, weights = self._vla
        chunks = self._task.horizon // self._task.chunk
        rows = self._batch * chunks
        tokens = (rows, sizes.chunk * sizes.action_dim)
        inputs = {
            **self._seen(rows),
            "tokens_BX": np.zeros(tokens, np.int64),
            "log_probs_BX": np.full(tokens, -5.0, np.float32),
            "advantage_B": self._random.standard_normal(rows).astype(np.float32),
        }

        def ours(precision: str) -> Run:
            changed = self._config.copy_and_resolve_references()
            changed.improve.update(epochs=1, minibatch=self._batch)
            changed.products = precision
            if "networks" in changed and precision == "float32":
                changed.networks.dtype = precision
            found = program("update", changed, self._mesh)
            return Prepared(Case("update", found.function, found.arguments, rows, "", ""))

        def theirs(how: peers.How) -> Run:
            return peers.policy_update(weights, sizes, inputs, how)

        return Pair(f"policy update, {rows} decisions", ours, theirs, compared=False)

    def _decode(self) -> Pair:
        # diffusers' autoencoder has no patches, and pixels as latents are no network.
        sizes = networks.autoencoder_config(self._config, 1.0)
        if not sizes.block_out_channels:
            sizes = AutoencoderKLConfig.tiny()
        sizes = dataclasses.replace(sizes, patch_size=1)
        params, weights = self._network("autoencoder", sizes)
        side = self._config.image_size // sizes.downsampling
        shape = (self._batch, self._task.chunk, side, side, sizes.latent_channels)
        latents = self._random.standard_normal(shape, np.float32)
        pixels = (side * sizes.downsampling,) * 2
        flat = np.moveaxis(latents.reshape(-1, *shape[2:]), -1, 1)

        def ours(precision: str) -> Run:
            made = self._in(sizes, precision)
            model = autoencoder.make_autoencoder(made, params)
            decode = self._compiled(autoencoder.FrameAutoencoder.decode, model, latents)
            return lambda: jnp.moveaxis(decode(), -1, 2).reshape(-1, 3, *pixels)

        def theirs(how: peers.How) -> Run:
            return peers.decode(weights, sizes, flat, how)

        return Pair(f"decode, {len(flat)} frames", ours, theirs)


NAMES = ("sampler", "world model gradient", "reward", "policy", "policy update", "decode")
