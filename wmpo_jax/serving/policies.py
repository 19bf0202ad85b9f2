"""What can be served: the policy of a run, or an imported checkpoint."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.agents.policy import Policy
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.conversion.load import ImportedPolicy, load_policy
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.models.vla import action_tokens
from wmpo_jax.runtime.errors import UserError

PROMPT_BUCKETS = (64, 128, 256)  # tokens that a prompt is filled up to; each is compiled once


class ServedPolicy(Protocol):
    """Frames and instructions in, chunks of actions in the robot's units out.

    Attributes:
      about: what a client may want to know, as JSON: name, chunk, action_dim, image_size, ...
      default_prompt: the instruction of an observation without one; None where one is needed.
    """

    about: dict[str, Any]
    default_prompt: str | None

    def check(self, prompt: str) -> None:
        """UserError where the policy cannot take this instruction."""
        ...

    def __call__(self, frames_BHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """float32 actions_BKA of uint8 frames, greedy; compiled for every shape of frames."""
        ...


class RunPolicy:
    """The policy of a run, for the instructions that the run has trained it on."""

    def __init__(self, run: TrainedRun, stage: str, name: str) -> None:
        task = run.task
        # Prompts are in lower case (models/vla/tokenizer.py), so case does not tell them apart.
        self._ids = {words.lower(): row for row, words in enumerate(task.instructions)}
        self._params = run.policy_params(stage)
        self._act = jax.jit(partial(_greedy, run.policy, run.statistics))
        self.default_prompt = task.instructions[0] if len(task.instructions) == 1 else None
        self.about = {
            "policy": name,
            "stage": stage,
            "task": task.name,
            "chunk": task.chunk,
            "action_dim": task.action_dim,
            "image_size": task.image_size,
            "instructions": list(task.instructions),
        }

    def check(self, prompt: str) -> None:
        if _plain(prompt) not in self._ids:
            raise UserError(
                f"This policy was not trained on the instruction {prompt[:100]!r}: choose from "
                f"{', '.join(map(repr, self._ids))[:1000]}."
            )

    def __call__(self, frames_BHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        instruction_id_B = np.array([self._ids[_plain(prompt)] for prompt in prompts], np.int32)
        seen = Observation(
            frame_BHWC=jnp.asarray(frames_BHWC), instruction_id_B=jnp.asarray(instruction_id_B)
        )
        return np.asarray(self._act(self._params, seen))


def _plain(prompt: str) -> str:
    return prompt.strip().lower()


def _greedy(
    policy: Policy, statistics: ActionStatistics, params: Any, seen: Observation
) -> jax.Array:
    acting = policy.acting(params, temperature=1.0, greedy=True)
    normalized_BKA = acting(seen, jax.random.key(0)).actions_BKA
    return jnp.asarray(statistics.unnormalize(normalized_BKA), jnp.float32)


class CheckpointPolicy:
    """An imported checkpoint; it takes any instruction that fits into its prompt."""

    default_prompt = None

    def __init__(self, folder: str | Path, statistics: str | None) -> None:
        self._imported = load_policy(folder, unnorm_key=statistics, param_dtype=jnp.bfloat16)
        policy = self._imported.policy
        self._classes = jax.jit(_best_classes)
        network = nnx.eval_shape(policy.build)
        self.about = {
            "policy": str(folder),
            "chunk": network.config.chunk,
            "action_dim": network.config.action_dim,
            "image_size": policy.transform.config.size,
        }

    def check(self, prompt: str) -> None:
        length = len(self._imported.policy.tokenizer.encode(prompt))
        if length > PROMPT_BUCKETS[-1]:
            raise UserError(
                f"The prompt has {length} tokens and at most {PROMPT_BUCKETS[-1]} are taken: "
                "shorten the instruction."
            )

    def __call__(self, frames_BHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        policy = self._imported.policy
        prompt_BL, length_B = policy.tokenizer.encode_batch(prompts)
        size = next(size for size in PROMPT_BUCKETS if size >= prompt_BL.shape[1])
        filling = ((0, 0), (0, size - prompt_BL.shape[1]))
        prompt_BL = np.pad(prompt_BL, filling, constant_values=policy.tokenizer.pad)
        inputs = jax.device_put((frames_BHWC, prompt_BL, length_B))
        classes_BKA = np.asarray(self._classes(self._imported, *inputs))
        normalized_BKA = action_tokens.decode(classes_BKA, policy.bins)
        return np.asarray(self._imported.statistics.unnormalize(normalized_BKA), np.float32)


def _best_classes(
    imported: ImportedPolicy, frames_BHWC: jax.Array, prompt_BL: jax.Array, length_B: jax.Array
) -> jax.Array:
    return jnp.argmax(imported.logits(frames_BHWC, prompt_BL, length_B), axis=-1)
