"""An imported policy meets its benchmark; the policy is random, the path is not."""

import json
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conversion import synthetic
from tests.stages.fake_host import Lifts
from wmpo_jax import convert
from wmpo_jax.conversion.load import load_statistics
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import evaluate_imported
from wmpo_jax.stages.context import RunContext


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy as `convert import` leaves it."""
    root = tmp_path_factory.mktemp("evaluate_imported")
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(root / "original", "policy", weights, shards=1)
    synthetic.write_tokenizer(source, ["coffee", "square"])
    assert (
        convert.main(["import", "--kind=policy", f"--source={source}", f"--target={root / 'p'}"])
        == 0
    )
    return root / "p"


def context_for(folder, tmp_path):
    config = ConfigDict(
        {
            "seed": 0,
            "tensorboard": False,
            "policy": {"temperature": 1.0},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "evaluate_imported": {
                "folder": str(folder),
                "statistics": "",
                "jpeg": False,
                "lanczos_resize": True,
            },
            "evaluate": {"episodes": 4, "batch_size": 4, "primary": "greedy"},
        }
    )
    context = RunContext(config, Workdir(tmp_path / "run", config), make_mesh(config))
    env = Lifts()
    env.chunk, env.horizon = 8, 16
    vars(context)["env"] = env
    return context


def test_rates_protocol_and_episodes_are_written(folder, tmp_path):
    context = context_for(folder, tmp_path)
    result = evaluate_imported.run(context)
    rows = load_arrays(
        context.workdir.data("evaluate_imported") / "results.npz", "evaluate_imported"
    )
    assert result["overall"]["n"] == 4 and result["protocol"]["sha256"] == "0123"
    assert result["overall"]["successes"] == rows["success"].sum()
    assert [result["by_task"][name]["n"] for name in Lifts.instructions] == [2, 2]
    assert rows["seeds"].tolist() == [-1, -2, -3, -4]
    (entry,) = context.workdir.ledger.read()
    assert entry["episodes"] == 4 and entry["used_for_training"] is False
    # Actions arrive in the units of the checkpoint's statistics, [-0.5, 0.5] but for the gripper.
    env: Any = context.env
    executed = np.concatenate(env.executed)
    assert executed.shape[1:] == (8, 7) and np.abs(executed[..., :6]).max() <= 0.5


def test_a_policy_for_another_arm_is_refused(folder, tmp_path):
    context = context_for(folder, tmp_path)
    context.env.action_dim = 6
    with pytest.raises(UserError, match="gives 7 numbers per action and toy_d0 takes 6"):
        evaluate_imported.run(context)


def test_statistics_of_data_without_idle_steps_answer_to_the_suite(tmp_path):
    entry = synthetic.STATISTICS["toy_d0"]
    stored = {"libero_goal_no_noops": entry, "bridge": entry}
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(stored))
    assert load_statistics(tmp_path, "libero_goal").q99[6] == 1.0
    with pytest.raises(UserError, match="no statistics for 'libero_object'"):
        load_statistics(tmp_path, "libero_object")
