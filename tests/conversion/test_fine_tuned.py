"""A policy that was fine-tuned here goes back to PyTorch and acts the same there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from tests.conversion import synthetic
from tests.golden.loader import DEFAULT_FOLDER, load
from wmpo_jax import convert
from wmpo_jax.conversion import reference_models
from wmpo_jax.conversion.foreign import ForeignWeights
from wmpo_jax.conversion.store import Store, save_trained
from wmpo_jax.conversion.torch_files import to_torch
from wmpo_jax.models.vla.lora import add_lora, merge_lora

STEPS, LEARNING_RATE = 4, 1e-3
PROMPT = jnp.array([[1, 17, 23, 40, 59]] * 3)
forward = nnx.jit(lambda model, *inputs: model(*inputs))


@pytest.fixture(scope="module")
def pixels_BHWC():
    """The observations of the golden policy file."""
    tensors, _ = load(DEFAULT_FOLDER / "policy_a.safetensors")
    return np.moveaxis(tensors["in.pixel_values"], 1, -1)


def fine_tune(policy, pixels_BHWC, trained):
    """A few AdamW steps of imitation on the parameters of type `trained`."""
    graphdef, params, rest = nnx.split(policy, trained, ...)
    tx = optax.adamw(LEARNING_RATE)
    labels = jnp.arange(3 * 8 * 7).reshape(3, 8, 7) % 256

    def loss(params):
        logits = nnx.merge(graphdef, params, rest)(pixels_BHWC, PROMPT)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))
    (params, _), losses = run((params, tx.init(params)))
    nnx.update(policy, params)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_exported_policy_gives_the_same_actions_in_torch(lora, pixels_BHWC, tmp_path, capsys):
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(tmp_path / "source", "policy", weights, shards=2)
    flags = ["--kind=policy", f"--source={source}", f"--target={tmp_path / 'ours'}"]
    assert convert.main(["import", *flags]) == 0
    store = Store(tmp_path / "ours")
    policy = nnx.merge(*store.params(jnp.float32))
    with jax.default_matmul_precision("highest"):
        before = forward(policy, pixels_BHWC, PROMPT)
        if lora:
            add_lora(policy, rank=4, alpha=8.0, rngs=nnx.Rngs(0))
        fine_tune(policy, pixels_BHWC, nnx.LoRAParam if lora else nnx.Param)
        if lora:
            merge_lora(policy, pixels_BHWC, PROMPT)
        ours = np.asarray(forward(policy, pixels_BHWC, PROMPT))
    save_trained(tmp_path / "trained", store, nnx.state(policy, nnx.Param))
    flags = [f"--source={tmp_path / 'trained'}", f"--target={tmp_path / 'back'}"]
    assert convert.main(["export", *flags]) == 0

    foreign = ForeignWeights(tmp_path / "back")
    theirs = {name: to_torch(foreign.read(name)).float() for name in foreign.infos}
    pixels_BCHW = torch.from_numpy(np.moveaxis(pixels_BHWC, -1, 1).copy())
    with torch.no_grad():
        logits = reference_models.policy_logits(
            theirs, store.config, pixels_BCHW, torch.tensor(PROMPT.tolist())
        )
    logits = logits.numpy().reshape(ours.shape)
    difference = np.abs(ours - logits).max()
    with capsys.disabled():
        print(f"\nlargest logit difference to PyTorch after fine-tuning here: {difference:.2e}")
    assert np.abs(ours - before).max() > 0.05
    assert difference < 1e-4 * np.abs(ours).max()
    np.testing.assert_array_equal(ours.argmax(-1), logits.argmax(-1))
