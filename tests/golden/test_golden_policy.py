"""The policy computes what the original PyTorch OpenVLA-OFT computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.golden.loader import golden_files, load
from wmpo_jax.algorithm.grpo import policy_loss, token_log_probs, token_mask, token_weights
from wmpo_jax.conversion import from_state_dict, to_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.models.vla import LlamaConfig, ViTConfig, VLAConfig, action_tokens
from wmpo_jax.models.vla.llama import rotary_angles

GRADIENT_RTOL = 1e-3  # of the largest entry of a tensor's gradient


class Golden:
    """One file: its tensors and metadata, the config it implies and the policy with its weights."""

    def __init__(self, path):
        self.tensors, self.meta = load(path)
        self.config = config_from_metadata(self.meta["config"], self.tensors)
        self.state_dict = state_dict_from_tensors(self.tensors, self.config)
        graphdef, _ = KINDS["policy"].abstract(self.config)
        self.policy = nnx.merge(graphdef, from_state_dict("policy", self.state_dict, self.config))

    def __getitem__(self, name):
        return self.tensors[name]

    def pixels(self, name):
        return jnp.asarray(np.moveaxis(self[name], -3, -1))

    def prompts(self, prefix):
        """Left-padded prompts of the file -> right-padded ids and lengths."""
        ids, mask = self[f"{prefix}.input_ids_left_padded"], self[_mask_name(prefix)]
        order = np.argsort(~mask, axis=-1, kind="stable")
        return jnp.asarray(np.take_along_axis(ids, order, axis=-1)), jnp.asarray(mask.sum(-1))


def _mask_name(prefix):
    return f"{prefix}.attention_mask" + ("" if prefix == "in.traj" else "_left_padded")


def config_from_metadata(sizes, tensors):
    vit = {"image_size": sizes["img"], "patch": sizes["patch"]}
    wide = {
        tower: len(tensors[f"vision_backbone.{tower}.blocks.0.mlp.fc1.bias"])
        for tower in ("featurizer", "fused_featurizer")
    }
    return VLAConfig(
        dino=ViTConfig(
            **vit,
            width=sizes["d1"],
            depth=sizes["dep1"],
            heads=sizes["h1"],
            mlp_width=wide["featurizer"],
            class_token=sizes["dino"]["cls_token"],
            registers=sizes["dino"]["reg_tokens"],
            layer_scale=True,
        ),
        siglip=ViTConfig(
            **vit,
            width=sizes["d2"],
            depth=sizes["dep2"],
            heads=sizes["h2"],
            mlp_width=wide["fused_featurizer"],
        ),
        llama=LlamaConfig(
            vocab_size=sizes["vocab_size"],
            width=sizes["llm"],
            depth=sizes["layers"],
            heads=sizes["heads"],
            mlp_width=sizes["inter"],
            rms_norm_eps=sizes["rms_norm_eps"],
            rope_theta=sizes["rope_theta"],
        ),
        projector_width=len(tensors["projector.fc1.bias"]),
        chunk=sizes["chunk"],
        action_dim=sizes["action_dim"],
        n_action_classes=sizes["n_action_bins"],
        n_unused_rows=sizes["pad_to_multiple_of"],
        stop_token=sizes["stop_token"],
        pad_token=sizes["pad_token_id"],
    )


def state_dict_from_tensors(tensors, config):
    """The original state dict; the two vocabulary matrices are stored as their non-zero rows."""
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith("rows."):
            full = np.zeros((config.llama.vocab_size, config.llama.width), np.float32)
            full[tensors[name.replace("rows.", "rows_index.", 1)]] = tensor
            weights[name.removeprefix("rows.")] = full
        elif not name.startswith(("in.", "out.", "rows_index.")):
            weights[name] = tensor
    return weights


@functools.cache
def _golden(path):
    return Golden(path)


@pytest.fixture(params=golden_files("policy"), ids=lambda path: path.stem)
def golden(request):
    with jax.default_matmul_precision("highest"):
        yield _golden(request.param)


def close(actual, desired, atol):
    np.testing.assert_allclose(np.asarray(actual), desired, rtol=0, atol=atol)


def test_golden_weights_survive_a_round_trip(golden):
    back = to_state_dict("policy", nnx.state(golden.policy), golden.config)
    assert back.keys() | KINDS["policy"].dead(golden.config).keys() == golden.state_dict.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, golden.state_dict[name])


def test_golden_vision(golden):
    policy, pixels = golden.policy, golden.pixels("in.pixel_values")
    close(policy.dino(pixels[..., :3]), golden["out.vision.dino"], 1e-4)
    close(policy.siglip(pixels[..., 3:]), golden["out.vision.siglip"], 1e-4)
    close(policy.vision_features(pixels), golden["out.vision.features"], 1e-4)
    close(policy.encode_images(pixels), golden["out.vision.projected"], 1e-4)


def test_golden_hidden_states(golden):
    """Our padding is inside the prompt, theirs after the stop token: compare by position."""
    policy, (prompt, length) = golden.policy, golden.prompts("in")
    embeds = policy.embed_sequence(policy.encode_images(golden.pixels("in.pixel_values")), prompt)
    positions, mask = policy.positions(prompt.shape[1], length)
    rows, columns = np.nonzero(mask)
    theirs = np.asarray(positions)[rows, columns]
    np.testing.assert_array_equal(mask.sum(1), golden["out.rollout.attention_mask"].sum(1))
    first = np.asarray(length) + golden.config.dino.n_patches - 1
    np.testing.assert_array_equal(first, golden["out.rollout.first_logit_position"])

    angles = rotary_angles(positions, golden.config.llama)
    layer0 = policy.llama.blocks[0](embeds, angles, mask)
    final = policy.llama(embeds, positions, mask)
    for ours, name, atol in (
        (embeds, "inputs_embeds", 1e-4),
        (layer0, "llm_layer0", 1e-3),
        (final, "final_hidden", 1e-3),
    ):
        close(np.asarray(ours)[rows, columns], golden[f"out.rollout.{name}"][rows, theirs], atol)


def test_golden_rollout(golden):
    config = golden.config
    logits = golden.policy(golden.pixels("in.pixel_values"), *golden.prompts("in"))
    flat = logits.reshape(len(logits), -1, config.n_action_classes)
    close(flat, golden["out.rollout.logits_last256"], 1e-3)
    for temperature, probs in with_prefix(golden, "out.rollout.probs_t"):
        close(jax.nn.softmax(flat / float(temperature)), probs, 5e-4)

    classes = logits.argmax(-1)
    responses = np.asarray(classes).reshape(len(logits), -1) + config.action_token_begin
    np.testing.assert_array_equal(responses, golden["out.rollout.responses"])
    normalized = action_tokens.decode(np.asarray(classes), config.n_action_classes)
    close(
        normalized.reshape(-1, config.action_dim),
        golden["out.rollout.normalized_actions"],
        1e-6,
    )
    close(statistics(golden).unnormalize(normalized), golden["out.rollout.actions"], 1e-6)


def test_golden_fast_path_without_padding(golden):
    """One prompt at a time needs neither mask nor gather; the original trains this way."""
    (prompt, length), pixels = golden.prompts("in"), golden.pixels("in.pixel_values")
    for i, n in enumerate(length):
        logits = golden.policy(pixels[i : i + 1], prompt[i : i + 1, :n])
        flat = logits.reshape(-1, golden.config.n_action_classes)
        close(flat, golden["out.train_forward.logits_last256"][i], 1e-3)


def test_golden_action_tokens(golden):
    n = golden.config.n_action_classes
    classes = golden["in.token_ids"] - golden.config.action_token_begin
    np.testing.assert_array_equal(
        action_tokens.bin_index(classes, n), golden["out.token_bin_index"]
    )
    close(action_tokens.decode(classes, n), golden["out.token_value"], 1e-12)
    close(action_tokens.bin_edges(n), golden["out.bins"], 1e-12)
    close(action_tokens.bin_centers(n), golden["out.bin_centers"], 1e-12)


def statistics(golden):
    """Quantiles and mask alone un-normalize; a file may lack the other numbers."""
    entry = golden.meta["norm_stats"][golden.meta["unnorm_key"]]["action"]
    return ActionStatistics.from_json(
        dict.fromkeys(("min", "max", "mean", "std"), entry["q01"]) | entry
    )


def test_golden_unnormalize(golden):
    normalized = golden["in.unnorm.normalized"]
    close(statistics(golden).unnormalize(normalized), golden["out.unnorm.actions"], 1e-12)
    in_jax = statistics(golden).unnormalize(jnp.asarray(normalized))
    largest = np.abs(golden["out.unnorm.actions"]).max()
    close(in_jax, golden["out.unnorm.actions"], 1e-6 * max(1.0, largest))


def trajectory_log_probs(policy, golden, temperature):
    """log_prob_BX, entropy_BX and mask_BX of the stored trajectories; X = chunks x K x A tokens."""
    config = golden.config
    pixels, (prompt, length) = golden.pixels("in.traj.pixel_values"), golden.prompts("in.traj")
    batch, chunks = prompt.shape[:2]
    logits = policy(
        pixels.reshape(-1, *pixels.shape[2:]), prompt.reshape(batch * chunks, -1), length.ravel()
    )
    classes = jnp.asarray(golden["in.traj.responses"] - config.action_token_begin)
    log_prob, entropy = token_log_probs(
        logits.reshape(batch, -1, config.n_action_classes), classes.reshape(batch, -1), temperature
    )
    finish_step = jnp.asarray(golden["in.traj.finish_step"])
    mask = token_mask(finish_step, log_prob.shape[1], config.action_dim)
    return log_prob * mask, entropy * mask, mask


def test_golden_trajectory_log_probs(golden):
    for suffix, theirs in with_prefix(golden, "out.traj.log_probs"):
        temperature = float(suffix.removeprefix("_t") or golden.meta["temperature"])
        log_prob, entropy, _ = trajectory_log_probs(golden.policy, golden, temperature)
        close(log_prob, theirs, 5e-4)
        close(entropy, golden[f"out.traj.entropy{suffix}"], 5e-4)


def test_golden_update(golden):
    """The original actor's update: loss, gradients, and the parameters after one AdamW step."""
    graphdef, params = nnx.split(golden.policy)
    advantage, old = golden["in.update.advantages"], golden["in.update.old_log_probs"]
    actor, optimizer = golden.meta["actor_config"], golden.meta["optimiser"]
    clips = actor["clip_ratio_low"], actor["clip_ratio_high"]

    def loss(params):
        policy = nnx.merge(graphdef, params)
        log_prob, _, mask = trajectory_log_probs(policy, golden, golden.meta["temperature"])
        count = len(mask)
        each = [
            policy_loss(
                log_prob, old, advantage, token_weights(mask, jnp.arange(count) == i), *clips
            )
            for i in range(count)
        ]
        weight = token_weights(mask, jnp.ones(count))
        return policy_loss(log_prob, old, advantage, weight, *clips)[0], each

    gradient, each = jax.jit(jax.grad(loss, has_aux=True))(params)
    one_token = 1.01 / (golden["in.traj.finish_step"].min() * golden.config.action_dim)
    for ours, name, atol in (
        ([value for value, _ in each], "pg_loss", 1e-6),
        # It counts tokens, and one may sit on the clip bound.
        ([metrics.clip_fraction for _, metrics in each], "pg_clipfrac", one_token),
        ([metrics.kl for _, metrics in each], "ppo_kl", 1e-6),
        ([optax.tree.norm(gradient)], "grad_norm", 1e-6),
    ):
        np.testing.assert_allclose(ours, golden[f"out.update.actor.{name}"], rtol=1e-4, atol=atol)

    gradients = to_state_dict("policy", gradient, golden.config)
    check_gradients(golden, gradients)

    tx = optax.chain(
        optax.clip_by_global_norm(optimizer["grad_clip"]),
        optax.adamw(
            optimizer["lr"],
            *optimizer["betas"],
            eps=optimizer["eps"],
            weight_decay=optimizer["weight_decay"],
        ),
    )
    updates, _ = tx.update(gradient, tx.init(params), params)
    after = to_state_dict("policy", jax.tree.map(jnp.add, params, updates), golden.config)
    for name, theirs in with_prefix(golden, "out.update.param_after."):
        # Where the gradient is rounding noise, Adam's first step is lr times a random sign. The
        # key third of a qkv bias is such a place: softmax does not notice it.
        sure = np.abs(gradients[name]) > GRADIENT_RTOL * np.abs(gradients[name]).max()
        assert sure.any()
        close(np.where(sure, after[name], theirs), theirs, 1e-5)


def check_gradients(golden, gradients):
    begin = golden.config.action_token_begin
    for name, theirs in with_prefix(golden, "out.update.grad_before_clip."):
        ours = gradients[name.removeprefix("rows.")]
        if name.startswith("rows."):
            ours = ours[begin : begin + golden.config.n_action_classes]
        close(ours, theirs, GRADIENT_RTOL * np.abs(theirs).max())
    norms = golden.meta["grad_norms_by_name"]
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-3, atol=1e-6)
    assert set(norms) | set(golden.meta["params_without_grad"]) == golden.state_dict.keys()
    assert gradients.keys() == norms.keys()


def with_prefix(golden, prefix):
    return [(n.removeprefix(prefix), t) for n, t in golden.tensors.items() if n.startswith(prefix)]
