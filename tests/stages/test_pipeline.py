"""What is wrong with a run is said before its first stage."""

from pathlib import Path
from typing import Any

import pytest
from jax.sharding import AbstractMesh

from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import AXES
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import pipeline


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["demos", "sft"], "sft.batch_size of 32"),
        (["reward"], "reward.batch_size of 128"),
        (["improve"], "improve.groups x group_size of 32"),
        (["oracle"], "oracle.groups x group_size of 32"),
    ],
)
def test_batches_that_the_mesh_does_not_divide(
    tmp_path: Path, stages: list[str], message: str
) -> None:
    config = load_config("configs/tiny.py:smoke")
    mesh: Any = AbstractMesh((3, 64, 2), AXES)
    expected = f"{message} cannot be spread over data x fsdp = 192 devices: make it a multiple"
    with pytest.raises(UserError, match=expected):
        pipeline.run_all(config, Workdir(tmp_path, config), mesh, stages)  # pyright: ignore


def test_micro_batches_that_do_not_divide_an_episode() -> None:
    """Said before the first stage, not when GRPO begins."""
    config = load_config("configs/tiny.py:smoke")
    with config.unlocked():
        config.improve.micro_chunks = 2  # press has three decisions
    with pytest.raises(UserError, match="does not divide the 3 decisions of an episode of press"):
        pipeline.check(config, ["improve"])
    pipeline.check(config, ["demos"])
