"""What is served is what acts in process: of a run, and of an imported checkpoint."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.agents.policy import make_policy
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.conversion.load import load_policy
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.transforms import ImageTransformConfig
from wmpo_jax.models.vla import PromptTokenizer, VLAConfig
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.serving.batching import Batcher
from wmpo_jax.serving.policies import CheckpointPolicy, RunPolicy

WORDS = ("press the pad", "lift the red cube")
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def run() -> Any:
    """What `RunPolicy` reads of a `TrainedRun`."""
    policy = make_policy(
        VLAConfig.tiny(3, 4, n_action_classes=64),
        ImageTransformConfig.tiny(),
        PromptTokenizer(),
        WORDS,
    )
    params = nnx.state(policy.build())
    actions = np.random.default_rng(1).uniform(-0.3, 0.5, (100, 3))
    return SimpleNamespace(
        task=SimpleNamespace(name="toy", instructions=WORDS, action_dim=3, chunk=4, image_size=32),
        policy=policy,
        statistics=ActionStatistics.from_actions(actions),
        policy_params=lambda stage: params,
    )


def test_the_policy_of_a_run_gives_the_actions_that_it_gives_in_process(run):
    served = RunPolicy(run, "sft", "toy run")
    rows = np.array([1, 0], np.int32)
    seen = Observation(frame_BHWC=jnp.asarray(FRAMES), instruction_id_B=jnp.asarray(rows))
    acting = run.policy.acting(run.policy_params("sft"), 1.0, greedy=True)
    chosen = jax.jit(lambda seen: acting(seen, jax.random.key(0)).actions_BKA)(seen)
    expected = run.statistics.unnormalize(chosen)
    actions = served(FRAMES, [WORDS[1].upper(), f" {WORDS[0]}"])
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert served.about["chunk"] == 4 and served.about["instructions"] == list(WORDS)
    assert served.default_prompt is None
    with pytest.raises(UserError, match="not trained on the instruction 'dance'"):
        served.check("dance")
    Batcher(served, 1).warm_up()


def test_an_imported_checkpoint_gives_the_actions_that_it_gives_in_process(tmp_path):
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(tmp_path / "original", "policy", weights, shards=1)
    synthetic.write_tokenizer(source, ["coffee", "square"])
    folder = tmp_path / "policy"
    flags = ["import", "--kind=policy", f"--source={source}", f"--target={folder}"]
    assert convert.main(flags) == 0
    served = CheckpointPolicy(folder, None)
    words = ["coffee", "square"]
    expected = load_policy(folder, param_dtype=jnp.bfloat16)(jnp.asarray(FRAMES), words)
    np.testing.assert_allclose(served(FRAMES, words), expected, atol=1e-6)
    assert (served.about["chunk"], served.about["action_dim"]) == expected.shape[1:]
    with pytest.raises(UserError, match="at most 256 are taken"):
        served.check("coffee " * 300)
