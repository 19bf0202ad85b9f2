"""Actions as classes, and instructions as token ids."""

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from wmpo_jax.models.vla import PromptTokenizer, action_tokens
from wmpo_jax.models.vla.config import TINY_TEXT_TOKENS
from wmpo_jax.models.vla.make_tokenizer import make_tokenizer
from wmpo_jax.models.vla.tokenizer import LLAMA2_LONE_SPACE, TINY_TOKENIZER
from wmpo_jax.runtime.errors import UserError

SIZES = pytest.mark.parametrize("n_classes", [16, 64, 256])


@SIZES
def test_an_action_comes_back_within_half_a_bin(n_classes):
    actions = np.linspace(-1.0, 1.0, 1001)
    for array in (actions, jnp.asarray(actions, jnp.float32)):
        classes = action_tokens.encode(array, n_classes)
        assert np.all(np.diff(np.asarray(classes)) <= 0)  # larger class = smaller action
        assert (classes.min(), classes.max()) == (0, n_classes - 1)
        error = np.abs(np.asarray(action_tokens.decode(classes, n_classes)) - actions)
        assert error.max() <= 1.0 / (n_classes - 1) + 1e-6


@SIZES
def test_a_class_comes_back_as_itself_except_the_top_one(n_classes):
    classes = np.arange(n_classes)
    again = action_tokens.encode(action_tokens.decode(classes, n_classes), n_classes)
    np.testing.assert_array_equal(again, [1, *range(1, n_classes)])


def test_reference_tokens():
    """31744 + k: an action of -1 is 31999, of 1 is 31744, and out of range is clipped."""
    tokens = 31_744 + action_tokens.encode(np.array([-9.0, -1.0, 0.0, 1.0, 9.0]), 256)
    np.testing.assert_array_equal(tokens, [31_999, 31_999, 31_872, 31_744, 31_744])


def test_soft_targets():
    actions = jnp.linspace(-1.0, 1.0, 60).reshape(5, 4, 3)
    hard = action_tokens.encode(actions, 64)
    soft = action_tokens.soft_targets(actions, 0.7, 64)
    assert soft.shape == (5, 4, 3, 64)
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-5)
    inside = np.abs(actions) < 0.95
    np.testing.assert_array_equal(soft.argmax(-1)[inside], hard[inside])
    expected = (soft * action_tokens.decode(jnp.arange(64), 64)[None, None, None]).sum(-1)
    np.testing.assert_allclose(expected[inside], actions[inside], atol=1e-3)


def test_soft_targets_without_softness_are_one_hot():
    actions = jnp.array([[[-1.0, 0.3, 1.0]]])
    one_hot = action_tokens.soft_targets(actions, 0.0, 64)
    np.testing.assert_array_equal(one_hot.argmax(-1), action_tokens.encode(actions, 64))
    np.testing.assert_array_equal(jnp.sort(one_hot)[..., -2:], [[[[0.0, 1.0]] * 3]])


def test_the_tokenizer_file_is_what_its_script_makes():
    assert Tokenizer.from_file(str(TINY_TOKENIZER)).to_str() == make_tokenizer().to_str()
    assert PromptTokenizer().vocab_size <= TINY_TEXT_TOKENS


def test_prompts_are_short_and_padded_on_the_right():
    tokenizer = PromptTokenizer()
    prompt_BL, length_B = tokenizer.encode_batch(
        ["press the pad", "Put the red block into the drawer"]
    )
    np.testing.assert_array_equal(length_B, [6, 10])
    assert prompt_BL.dtype == np.int32
    np.testing.assert_array_equal(prompt_BL[:, 0], 1)
    np.testing.assert_array_equal(prompt_BL[0, 6:], tokenizer.pad)
    assert tokenizer.encode("press the PAD") == list(prompt_BL[0, :6])


def test_words_it_has_never_seen_survive():
    raw = Tokenizer.from_file(str(TINY_TOKENIZER))
    text = "In: What action should the robot take to befühl the 丸?\nOut:"
    assert raw.decode(raw.encode(text).ids) == text
    assert "<unk>" not in raw.encode(text).tokens


@pytest.mark.parametrize("last", ["Out:", "▁"])
def test_llama2_prompts_end_with_a_lone_space(tmp_path, last):
    """Appended unless the tokenizer itself left it there."""
    vocabulary = {"<unk>": 0, "<PAD>": 32_000, "Out:": 5, "▁": LLAMA2_LONE_SPACE}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=last))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = PromptTokenizer(tmp_path / "tokenizer.json").encode("press the pad")
    assert ids[-1] == LLAMA2_LONE_SPACE
    assert ids.count(LLAMA2_LONE_SPACE) == 1


def test_a_missing_tokenizer_is_explained(tmp_path):
    with pytest.raises(UserError, match="no tokenizer file"):
        PromptTokenizer(tmp_path / "nowhere.json")
