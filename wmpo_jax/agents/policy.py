"""The policy: a VLA with prompts, image transform and action tokens; how it samples; its loss."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.algorithm.grpo import token_log_probs
from wmpo_jax.algorithm.protocols import Observation, PolicyOutput
from wmpo_jax.data.transforms import ImageTransform, ImageTransformConfig
from wmpo_jax.models.vla import VLA, PromptTokenizer, VLAConfig, action_tokens
from wmpo_jax.models.vla.lora import add_lora


class Adapted(NamedTuple):
    """A policy's parameters when adapters (LoRA) are trained and the rest of it is not."""

    adapters: Any
    frozen: Any


def trained_of(params: Any) -> Any:
    """The part of a policy's parameters that training changes: all of them, or the adapters."""
    return params.adapters if isinstance(params, Adapted) else params


def joined(trained: Any, frozen: Any) -> Any:
    """A policy's parameters; `frozen` is None where all of them are trained."""
    return trained if frozen is None else Adapted(trained, frozen)


def frozen_of(params: Any) -> Any:
    """The part that training leaves alone; None where there is none."""
    return params.frozen if isinstance(params, Adapted) else None


@dataclass(frozen=True)
class Lora:
    """Adapters beside a frozen policy; rank 0 means none, and all of the policy is trained."""

    rank: int = 0
    alpha: float = 16.0


@dataclass(frozen=True)
class Policy:
    """A VLA without its weights. Methods take them: all, or adapters and frozen in an `Adapted`.

    Attributes:
      build: makes the network with fresh weights.
      prompts_GL: int32 prompt of each instruction, padded; lengths_G without the padding.
    """

    build: Callable[[], VLA]
    graphdef: Any
    transform: ImageTransform
    tokenizer: PromptTokenizer
    prompts_GL: np.ndarray
    lengths_G: np.ndarray
    bins: int

    def with_instructions(self, instructions: Sequence[str]) -> "Policy":
        """The same policy for other instructions."""
        prompts_GL, lengths_G = self.tokenizer.encode_batch(instructions)
        return dataclasses.replace(self, prompts_GL=prompts_GL, lengths_G=lengths_G)

    def logits(self, params: Any, frames_BHWC: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
        """float32 logits_BKAV over action classes, from uint8 frames of any size."""
        return self.prompted_logits(params, frames_BHWC, *self._prompts(instruction_id_B))

    def prompted_logits(
        self,
        params: Any,
        frames_BHWC: jax.Array,
        prompt_BL: jax.Array,
        length_B: jax.Array | None = None,
    ) -> jax.Array:
        """As `logits`, with a prompt for each row; `length_B` where their lengths differ."""
        return self._network(params)(self.transform(frames_BHWC), prompt_BL, length_B)

    def _network(self, params: Any) -> VLA:
        parts = params if isinstance(params, Adapted) else (params,)
        return nnx.merge(self.graphdef, *parts)

    def _prompts(self, instruction_id_B: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """prompt_BL, and length_B where lengths differ."""
        prompt_BL = jnp.asarray(self.prompts_GL)[instruction_id_B]
        same_length = (self.lengths_G == self.lengths_G[0]).all()
        return prompt_BL, None if same_length else jnp.asarray(self.lengths_G)[instruction_id_B]

    def acting(self, params: Any, temperature: float, greedy: bool = False) -> "ActingPolicy":
        """The policy as the algorithm calls it."""
        return ActingPolicy(self, params, temperature, greedy)

    def imitation_loss(
        self,
        params: Any,
        frames_BHWC: jax.Array,
        instruction_id_B: jax.Array,
        actions_BKA: jax.Array,
        soft_label_sigma: float,
        augment_key: jax.Array | None = None,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """Cross-entropy with the classes of normalized actions, mean over the chunk's tokens.

        Args:
          soft_label_sigma: bins; ordinal smoothing of the classes, 0 for hard labels (as in the
            reference).
          augment_key: of random crops and colors (`ImageTransform.augmented`); None for none.
        """
        if augment_key is None:
            pixels_BHWC = self.transform(frames_BHWC)
        else:
            pixels_BHWC = self.transform.augmented(augment_key, frames_BHWC)
        logits = self._network(params)(pixels_BHWC, *self._prompts(instruction_id_B))
        targets = action_tokens.soft_targets(actions_BKA, soft_label_sigma, self.bins)
        loss = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
        actions = action_tokens.decode(jnp.argmax(logits, axis=-1), self.bins)
        return loss, {"action_error": jnp.abs(actions - actions_BKA).mean()}


@dataclass(frozen=True)
class ActingPolicy:
    """`algorithm.protocols.Policy`: samples (or takes the best of) every action token at once."""

    policy: Policy
    params: Any
    temperature: float
    greedy: bool

    def __call__(self, observation: Observation, key: jax.Array) -> PolicyOutput:
        logits = self.policy.logits(
            self.params, observation.frame_BHWC, observation.instruction_id_B
        )
        if self.greedy:
            tokens = jnp.argmax(logits, axis=-1)
        else:
            tokens = jax.random.categorical(key, logits / self.temperature)
        log_probs, _ = token_log_probs(logits, tokens, self.temperature)
        return PolicyOutput(
            tokens_BKA=tokens.astype(jnp.int32),
            actions_BKA=jnp.asarray(action_tokens.decode(tokens, self.policy.bins)),
            log_probs_BKA=log_probs,
        )


def make_policy(
    config: VLAConfig,
    transform: ImageTransformConfig,
    tokenizer: PromptTokenizer,
    instructions: Sequence[str],
    lora: Lora = Lora(),
    seed: int = 0,
) -> Policy:
    """The one constructor; fresh weights, where they are wanted, depend on `seed`."""

    def build() -> VLA:
        network = VLA(config, rngs=nnx.Rngs(seed))
        if lora.rank:
            add_lora(network, lora.rank, lora.alpha, rngs=nnx.Rngs(seed + 1))
        return network

    prompts_GL, lengths_G = tokenizer.encode_batch(instructions)
    return Policy(
        build=build,
        graphdef=nnx.graphdef(nnx.eval_shape(build)),
        transform=ImageTransform(transform),
        tokenizer=tokenizer,
        prompts_GL=prompts_GL,
        lengths_G=lengths_G,
        bins=config.n_action_classes,
    )
