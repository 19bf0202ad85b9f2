"""A policy that is served elsewhere, evaluated in an environment of this project."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.serving.conftest import DIM, gray, serving
from tests.stages.fake_host import Lifts
from wmpo_jax import main
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import evaluate, pipeline
from wmpo_jax.stages.context import RunContext

__all__ = ["gray", "serving"]  # used by pytest


class Seen(Lifts):
    """With frames that are large enough to be sent."""

    image_size = 8


def context_for(address: str, tmp_path, env: Any = None) -> RunContext:
    config = ConfigDict(
        {
            "seed": 0,
            "task": "remote",
            "image_size": 32,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "remote": {"address": address, "environment": "press"},
            "evaluate": {"episodes": 4, "batch_size": 4},
        }
    )
    context = RunContext(config, Workdir(tmp_path / "run", config), make_mesh(config))
    vars(context)["env"] = env or Seen()
    return context


def test_rates_episodes_and_the_server_are_written(serving, tmp_path):
    """The served policy's actions are the frame's level / 255; Lifts is solved by a sum of 4."""
    port = serving()
    context = context_for(f"ws://127.0.0.1:{port}", tmp_path)
    result = evaluate.run(context)
    rows = load_arrays(context.workdir.data("evaluation") / "results.npz", "evaluate")
    assert result["overall"]["n"] == 4 and result["server"]["policy"] == "gray"
    assert rows["seeds"].tolist() == [-1, -2, -3, -4]
    env: Any = context.env
    executed = np.concatenate([wave[:, 0, 0] for wave in env.executed[::2]])
    assert sorted(np.round(executed * 255)) == [1, 2, 3, 4]  # each frame's own level
    assert env.executed[0].shape[2] == DIM and env.videos == {False}
    (entry,) = context.workdir.ledger.read()
    assert entry["name"] == "evaluation of a served policy" and entry["episodes"] == 4


def test_nobody_another_token_and_another_robot_are_one_sentence_each(
    serving, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match=r"No policy answers at remote.address = ws://127.0.0.1:9"):
        evaluate.run(context_for("127.0.0.1:9", tmp_path))
    port = serving(token="secret")
    address = f"127.0.0.1:{port}"
    with pytest.raises(UserError, match=r"wants another token \(HTTP 401\)"):
        evaluate.run(context_for(address, tmp_path))
    monkeypatch.setenv("WMPO_TOKEN", "secret")
    other = Seen()
    other.action_dim = 3
    with pytest.raises(UserError, match=r"shape \(4, 7\).*at least 4 of 3"):
        evaluate.run(context_for(address, tmp_path, other))
    dancing = Seen()
    dancing.instructions = ("dance", "dance")
    with pytest.raises(UserError, match="refuses: This policy does not dance"):
        evaluate.run(context_for(address, tmp_path, dancing))


def test_only_stage_evaluate_runs(capsys, tmp_path):
    config = load_config("configs/remote.py")
    assert pipeline.chosen(config, ()) == ["evaluate"]
    assert load_config("configs/remote.py:libero").remote.environment.startswith("libero_")
    with pytest.raises(UserError, match="Stage sft needs weights"):
        pipeline.chosen(config, ["sft"])
    flags = ["--config=configs/remote.py", f"--workdir={tmp_path / 'run'}"]
    assert main.main(flags) == 2
    assert "remote.address is empty" in capsys.readouterr().err
    assert main.main([*flags, "--config.remote.environment=libero_goal"]) == 2
    assert "needs a section libero" in capsys.readouterr().err
