"""What stage `evaluate_imported` makes of a LIBERO policy's folder agrees with the golden tensors.

The network's logits and actions are compared in test_golden_policy.py, the stages of the picture
one by one in test_golden_preproc.py; here the folder decides, as it does in an evaluation.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tests.conversion import synthetic
from tests.golden.loader import DEFAULT_FOLDER, load
from tests.golden.test_golden_preproc import assert_within_a_level
from wmpo_jax import convert
from wmpo_jax.conversion.load import load_policy
from wmpo_jax.data.transforms import ImageTransform
from wmpo_jax.envs.libero.benchmark import HORIZONS, executed_action, language, task_names
from wmpo_jax.models.vla.tokenizer import LLAMA2_LONE_SPACE, PromptTokenizer

SUITE = "libero_spatial"


@pytest.fixture(scope="module")
def golden():
    return {name: load(DEFAULT_FOLDER / f"{name}_a.safetensors") for name in ("policy", "preproc")}


@pytest.fixture(scope="module")
def policy(golden, tmp_path_factory):
    """A random policy beside the golden statistics and normalization, imported as users do it."""
    root = tmp_path_factory.mktemp("libero")
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(root / "original", "policy", weights, shards=1)
    (entry,) = golden["policy"][1]["norm_stats"].values()
    stored = {f"{SUITE}_no_noops": entry, "bridge": synthetic.STATISTICS["toy_d0"]}
    (source / "dataset_statistics.json").write_text(json.dumps(stored))
    processor = golden["preproc"][1]["processor"]
    towers = zip(processor["mean"], processor["std"], strict=True)
    towers = [{"mean": mean, "std": std} for mean, std in towers]
    (source / "preprocessor_config.json").write_text(json.dumps({"tvf_normalize_params": towers}))
    synthetic.write_tokenizer(source, ["bowl"])
    flags = ["--kind=policy", f"--source={source}", f"--target={root / 'policy'}"]
    assert convert.main(["import", *flags]) == 0
    return load_policy(root / "policy", unnorm_key=SUITE, jpeg=True)


def test_the_picture(policy, golden):
    """JPEG, Lanczos, crop and both normalizations, at the golden file's size."""
    tensors, _ = golden["preproc"]
    config = dataclasses.replace(policy.policy.transform.config, size=len(tensors["out.resized"]))
    pixels = ImageTransform(config)(jnp.asarray(tensors["in.image"])[None])[0]
    assert_within_a_level(pixels, tensors["out.pixel_values"], config.stds)


def test_the_instructions(golden, tmp_path):
    """Every instruction of every suite ends where the golden prompts do.

    A vocabulary of Llama's size is refused beside so small a policy, so its tokenizer is alone.
    """
    words = {f"w{number}": number for number in range(LLAMA2_LONE_SPACE)}
    vocabulary = words | {"▁": LLAMA2_LONE_SPACE, "<unk>": 29_872, "<PAD>": 32_000}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert (golden["policy"][0]["in.input_ids_left_padded"][:, -1] == LLAMA2_LONE_SPACE).all()
    instructions = [
        language(suite, task) for suite in HORIZONS for task in range(len(task_names(suite)))
    ]
    prompts, lengths = PromptTokenizer(tmp_path / "tokenizer.json").encode_batch(instructions)
    assert len(instructions) == 130
    assert (prompts[np.arange(len(instructions)), lengths - 1] == LLAMA2_LONE_SPACE).all()


def test_the_actions(policy, golden):
    """The suite's key finds the statistics of the data without idle steps; LIBERO's own gripper."""
    tensors, _ = golden["policy"]
    actions = policy.statistics.unnormalize(tensors["out.rollout.normalized_actions"])
    theirs = tensors["out.rollout.actions"].reshape(-1, 7)
    np.testing.assert_allclose(actions, theirs, rtol=0, atol=1e-6)
    for action in theirs:
        executed = executed_action(action)
        np.testing.assert_array_equal(executed[:6], np.clip(action[:6], -1, 1))
        assert executed[6] == -np.sign(2 * action[6] - 1)
