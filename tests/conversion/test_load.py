"""Converted checkpoints become objects that can be called."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.conversion import load_policy, load_reward_model, load_world_model
from wmpo_jax.conversion.load import load_statistics
from wmpo_jax.runtime.errors import UserError

SPREAD = """
import jax, numpy as np
from jax.sharding import AxisType
from wmpo_jax.conversion import Store, spread_over
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
store = Store(__import__("pathlib").Path({folder!r}))
_, whole = store.params("float32")
_, spread = store.params("float32", spread_over(mesh))
for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(spread), strict=True):
    np.testing.assert_array_equal(a, b)
leaf = spread["layers"][0]["intermediate"]["kernel"][...]
assert leaf.shape == (64, 96) and leaf.addressable_shards[3].data.shape == (64, 12)
assert spread["classifier"]["bias"][...].sharding.is_fully_replicated
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """One folder per kind, as `convert import` makes them; the policy with a small tokenizer."""
    root = tmp_path_factory.mktemp("converted")
    words = ["<s>", "<unk>", "</s>", "<PAD>", "In:", "Out:", "coffee", "square", "the", "to"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    for kind in synthetic.CONFIGS:
        weights = synthetic.tensors(kind, synthetic.BFLOAT16)
        source = synthetic.write_folder(root / f"{kind}_original", kind, weights, shards=1)
        if kind == "policy":
            tokenizer.save(str(source / "tokenizer.json"))
        flags = [f"--kind={kind}", f"--source={source}", f"--target={root / kind}"]
        assert convert.main(["import", *flags]) == 0
    return root


def frames(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_policy_acts_in_the_units_of_its_statistics(converted):
    policy = load_policy(converted / "policy")
    actions = policy(frames(2, 40, 40, 3), ["coffee", "the square"])
    assert actions.shape == (2, 8, 7) and actions.dtype == jnp.float32
    # q01, q99 are -0.5, 0.5; the gripper passes through, and bin centers end before 1.
    assert np.abs(actions[..., :6]).max() <= 0.5
    assert 0.5 < np.abs(actions[..., 6]).max() < 1.0

    full = load_policy(converted / "policy", dtype=jnp.float32)
    np.testing.assert_allclose(
        full(frames(2, 40, 40, 3)[1:], ["the square"]),
        full(frames(2, 40, 40, 3), ["coffee", "the square"])[1:],
        atol=1e-5,
    )


def test_normalization_of_the_processor_is_used(converted):
    towers = [{"mean": [0.1] * 3, "std": [0.2] * 3}, {"mean": [0.3] * 3, "std": [0.4] * 3}]
    folder = converted / "policy"
    path = folder / "assets" / "preprocessor_config.json"
    path.write_text(json.dumps({"tvf_normalize_params": towers}))
    config = load_policy(folder).policy.transform.config
    path.unlink()
    assert config.means == ((0.1,) * 3, (0.3,) * 3) and config.stds == ((0.2,) * 3, (0.4,) * 3)


def test_statistics_must_be_chosen_when_there_are_several(tmp_path):
    entry = synthetic.STATISTICS["toy_d0"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"norm_stats": {"a": entry, "b": entry}}))
    with pytest.raises(UserError, match="one of a, b"):
        load_statistics(tmp_path, None)
    np.testing.assert_array_equal(load_statistics(tmp_path, "b").q01, [-0.5] * 7)
    path.unlink()
    with pytest.raises(UserError, match=r"no dataset_statistics\.json"):
        load_statistics(tmp_path, "a")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("dataset_statistics.json", {"d": {"action": {"q01": [0.0], "q99": [1.0]}}}, "1 numbers"),
        ("dataset_statistics.json", {}, "has no dataset_statistics.json"),
        ("tokenizer.json", {}, "is no tokenizer"),
        ("tokenizer.json", None, "There is no tokenizer file"),
    ],
)
def test_what_was_put_beside_imported_weights_is_checked(
    name, content, complaint, converted, tmp_path
):
    """As the import advises where tokenizer or statistics were missing."""
    folder = shutil.copytree(converted / "policy", tmp_path / "policy")
    (folder / "assets" / name).unlink()
    if content is not None:
        (folder / "assets" / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=complaint):
        load_policy(folder)


def test_world_model_imagines_a_chunk(converted):
    folders = converted / "world_model", converted / "autoencoder"
    world = load_world_model(*folders, steps=2, image_size=16)
    key = jax.random.key(0)
    history = world.encode(jnp.repeat(frames(1, 1, 16, 16, 3), 4, axis=1), key)
    actions = jnp.zeros((1, 8, 7))
    latents = jax.jit(type(world).predict)(world, history, actions, key)
    assert latents.shape == (1, 8, *history.shape[2:])
    video = world.decode(latents)
    assert video.shape == (1, 8, 16, 16, 3) and video.dtype == jnp.uint8
    with pytest.raises(UserError, match="frames of 16 pixels and these have 32 x 32"):
        world.encode(frames(1, 4, 32, 32, 3), key)
    other = jax.jit(type(world).predict)(world, history, actions + 1.0, key)
    assert np.abs(other - latents).max() > 1e-3


def test_reward_model_scans_a_video(converted):
    video = frames(2, 14, 32, 32, 3)
    reward_model = load_reward_model(converted / "reward", threshold=0.0, min_steps=3)
    complete, finish = reward_model(video)
    assert complete.all() and (np.asarray(finish) == 3 + 8 - 1).all()
    never = load_reward_model(converted / "reward", threshold=1.1, min_steps=3)
    complete, finish = never(video)
    assert not complete.any() and (np.asarray(finish) == 13).all()
    assert reward_model.model.score(video, jnp.zeros(2, int)).shape == (2, 7)


def test_a_folder_of_another_kind_is_refused(converted):
    with pytest.raises(UserError, match="is a reward, not a policy"):
        load_policy(converted / "reward")


def test_parameters_are_read_into_their_shards(converted):
    """On eight pretend devices; the values are those of the unsharded parameters."""
    code = SPREAD.format(folder=str(converted / "reward"))
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
