"""The reward model against transformers 4.40.1 (`videomae_*.safetensors`)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.golden.loader import golden_files, load
from wmpo_jax.agents.reward_model import SuccessRule, VideoRewardModel, make_reward_model
from wmpo_jax.conversion import from_state_dict, to_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.videomae import preprocess as pixels
from wmpo_jax.models.videomae.model import sine_positions
from wmpo_jax.runtime.errors import UserError

CLOSE = {"rtol": 0, "atol": 1e-4}


def config_of(metadata) -> VideoMAEConfig:
    config, processor = metadata["config"], metadata["processor"]
    return VideoMAEConfig(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        num_frames=config["num_frames"],
        tubelet_size=config["tubelet_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_size=config["intermediate_size"],
        num_labels=config["num_labels"],
        image_mean=tuple(processor["imagenet_mean"]),
        image_std=tuple(processor["imagenet_std"]),
    )


@pytest.fixture(scope="module", params=golden_files("videomae"), ids=lambda path: path.stem)
def golden(request):
    tensors, metadata = load(request.param)
    foreign = {k: v for k, v in tensors.items() if not k.startswith(("in.", "out."))}
    config = config_of(metadata)
    graphdef, _ = KINDS["reward"].abstract(config)
    model = nnx.merge(graphdef, from_state_dict("reward", foreign, config))
    with jax.default_matmul_precision("highest"):
        yield tensors, metadata, foreign, model


def last(array: np.ndarray) -> jax.Array:
    """(B, T, C, H, W) -> (B, T, H, W, C)."""
    return jnp.asarray(np.moveaxis(array, 2, -1))


def test_golden_processor(golden):
    tensors, metadata, _, model = golden
    size = metadata["processor"]["size_shortest_edge"]
    clip = jnp.asarray(tensors["in.clip_uint8_THWC"])
    resized = pixels.resize_shortest_edge(clip, size)
    np.testing.assert_array_equal(resized, tensors["out.clip.resized_uint8"])
    close = {"rtol": 0, "atol": 1e-5}
    normalized = model.preprocess(clip[None])
    np.testing.assert_allclose(normalized, last(tensors["out.clip.imagenet_norm"]), **close)
    half = pixels.preprocess(
        clip[None], size, metadata["processor"]["half_mean"], metadata["processor"]["half_std"]
    )
    np.testing.assert_allclose(half, last(tensors["out.clip.half_norm"]), **close)


def test_golden_processor_on_a_full_size_frame(golden):
    tensors, _, _, model = golden
    frame = jnp.asarray(tensors["in.frame256_uint8"])
    expected = tensors["out.frame256.resized_uint8"]
    size = min(expected.shape[:2])
    resized = pixels.resize_shortest_edge(frame, size)
    np.testing.assert_array_equal(resized[0], expected)
    normalized = pixels.preprocess(frame, size, model.config.image_mean, model.config.image_std)
    np.testing.assert_allclose(
        normalized[None], last(tensors["out.frame256.imagenet_norm"]), rtol=0, atol=1e-5
    )


def test_golden_forward_layer_by_layer(golden):
    tensors, _, _, model = golden
    positions = tensors["out.position_embeddings"]
    np.testing.assert_allclose(sine_positions(*positions.shape[1:]), positions[0], atol=1e-6)
    windows = last(tensors["in.pixel_values"])
    tubelets = model.embed_tubelets(windows)[:, :: model.config.tubelet_size]
    tokens = model.add_positions(tubelets)
    np.testing.assert_allclose(tokens, tensors["out.embeddings"], **CLOSE)
    np.testing.assert_allclose(model.layers[0](tokens), tensors["out.block0"], **CLOSE)
    logits = model(windows)
    np.testing.assert_allclose(logits, tensors["out.logits"], **CLOSE)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), tensors["out.prob"], **CLOSE)


def test_golden_loss_and_gradients(golden):
    tensors, _, _, model = golden
    graphdef, params = nnx.split(model)
    labels = jnp.asarray(tensors["in.labels"])

    def loss(params):
        logits = nnx.merge(graphdef, params)(last(tensors["in.pixel_values"]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, tensors["out.ce_loss"], rtol=1e-5)
    named = to_state_dict("reward", gradient, model.config)
    compared = [name for name in tensors if name.startswith("out.grad.")]
    assert compared
    for name in compared:
        expected = tensors[name]
        tolerance = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(
            named[name.removeprefix("out.grad.")], expected, rtol=0, atol=tolerance
        )


def test_golden_window_scan(golden):
    tensors, metadata, _, model = golden
    scan = metadata["predict_success"]
    config = dataclasses.replace(model.config, head="sigmoid")
    reward_model = make_reward_model(config, nnx.state(model))
    assert reward_model.window == scan["window"]
    video = jnp.asarray(tensors["in.videos_uint8"])
    instruction_id_B = jnp.zeros(len(video), jnp.int32)
    first = scan["min_steps"]
    scores = jax.jit(VideoRewardModel.score)(reward_model, video[:, first:], instruction_id_B)
    np.testing.assert_allclose(scores, tensors["out.videos.window_probs"][..., 1], **CLOSE)
    rule = SuccessRule(float(tensors["in.threshold"]), first)
    complete, finish_step = reward_model.outcomes(video, instruction_id_B, rule)
    np.testing.assert_array_equal(complete, tensors["out.videos.complete"].astype(bool))
    np.testing.assert_array_equal(finish_step, tensors["out.videos.finish_step"])


def test_golden_weights_survive_the_round_trip(golden):
    _, _, foreign, model = golden
    back = to_state_dict("reward", nnx.state(model), model.config)
    assert back.keys() == foreign.keys()
    for name, array in foreign.items():
        np.testing.assert_array_equal(back[name], array)
    other = dataclasses.replace(model.config, num_labels=model.config.num_labels + 2)
    with pytest.raises(UserError, match="classifier"):
        from_state_dict("reward", foreign, other)
