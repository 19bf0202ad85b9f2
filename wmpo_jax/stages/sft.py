"""Stage 2: the policy imitates the demonstrations (supervised fine-tuning on action tokens)."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.models.vla import action_tokens
from wmpo_jax.stages import networks, training
from wmpo_jax.stages.agents import PolicyFamily, policy_family
from wmpo_jax.stages.setting import Setting


def run(setting: Setting) -> None:
    """Writes checkpoints/sft, the base policy."""
    started = time.monotonic()
    section = setting.config.sft
    family = policy_family(setting.config, setting.env)
    optimizer = _optimizer(setting)
    params = networks.create_policy(setting, family.build)
    step_fn = training.make_step(
        setting.mesh,
        lambda params, data, key, _: _loss(family, setting, params, data, key),
        optimizer,
        setting.key("sft"),
        accumulate=section.get("accumulate", 1),
    )
    training.fit(
        "sft",
        training.initial_state(setting.mesh, training.trained_of(params), optimizer),
        step_fn,
        _training_data(setting),
        section.steps,
        section.checkpoint_every,
        setting,
        training.frozen_of(params),
    )
    result = {"seconds": time.monotonic() - started, "steps": section.steps}
    setting.workdir.mark_done("sft", result)


def load_base_policy(setting: Setting, family: PolicyFamily) -> Any:
    """The params of the imitated policy."""
    shapes = networks.policy_shapes(setting, family.build)
    template = training.state_template(setting.mesh, shapes, _optimizer(setting))
    params = training.load_params(setting, "sft", template)
    return training.joined(params, networks.frozen_policy(setting, family.build))


def _optimizer(setting: Setting) -> Any:
    section = setting.config.sft
    return training.optimizer("sft", section, section.steps, stacked="blocks")


def _training_data(setting: Setting) -> dict[str, jax.Array] | training.Stream:
    """Frames and the clean chunks that follow them, for every step that has a whole chunk."""
    env = setting.env
    if setting.mixture is not None:
        spec = WindowSpec(history=1, chunk=env.chunk, future=False)
        batch_size = setting.config.sft.batch_size
        return training.Stream(setting.loader("sft data", spec, batch_size, clip=True))
    demos = setting.episodes("demos", "demos")
    labels_ETA = setting.statistics.normalize(demos["labels_BTA"])
    count = env.horizon - env.chunk + 1
    chunks = np.stack([labels_ETA[:, s : s + env.chunk] for s in range(count)], axis=1)
    frames = demos["frames_BTHWC"][:, :count]
    return {
        "frame_XHWC": jnp.asarray(frames.reshape(-1, *frames.shape[2:])),
        "chunk_XKA": jnp.asarray(chunks.reshape(-1, *chunks.shape[2:]), jnp.float32),
        "instruction_id_X": jnp.asarray(np.repeat(demos["instruction_id_B"], count)),
    }


def _loss(
    family: PolicyFamily, setting: Setting, params: Any, data: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Cross-entropy with ordinal soft labels, mean over the chunk's tokens."""
    section = setting.config.sft
    batch = training.spread(setting.mesh, _batch(section.batch_size, data, key))
    logits = family.logits_of_frames(params, batch["frame_XHWC"], batch["instruction_id_X"])
    targets = action_tokens.soft_targets(batch["chunk_XKA"], section.soft_label_sigma, family.bins)
    loss = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
    actions = action_tokens.decode(jnp.argmax(logits, axis=-1), family.bins)
    return loss, {"action_error": jnp.abs(actions - batch["chunk_XKA"]).mean()}


def _batch(batch_size: int, data: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """Drawn from the arrays of `_training_data`; what a stream brings is a batch already."""
    if "frames_BTHWC" in data:
        return {
            "frame_XHWC": data["frames_BTHWC"][:, -1],
            "chunk_XKA": data["actions_BKA"],
            "instruction_id_X": data["instruction_id_B"],
        }
    index_B = jax.random.randint(key, (batch_size,), 0, data["instruction_id_X"].shape[0])
    return {name: values[index_B] for name, values in data.items()}
