"""What is wrong with a run is said before its first stage."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import AXES, make_mesh
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


@pytest.mark.parametrize(("min_step", "fits"), [(9, True), (10, False), (100, False)])
def test_a_success_that_can_never_count(min_step: int, fits: bool) -> None:
    """The reference's min_step of 100, of episodes of hundreds of actions, in a shorter task."""
    config = load_config("configs/tiny.py:smoke")
    config.reward.min_step = min_step  # windows of 4 frames, episodes of 12 actions
    pipeline.check(config, ["demos", "sft"])
    if fits:
        pipeline.check(config, ["improve"])
        return
    sentence = rf"no imagined success counts before action {min_step + 3}, and an episode of press"
    with pytest.raises(UserError, match=rf"{sentence} has 12: lower reward\.min_step\."):
        pipeline.check(config, ["improve"])


SHAPE = {"w": jax.ShapeDtypeStruct((64,), jnp.float32)}


def _train(context: Any) -> dict[str, Any]:
    """Checkpoints 10 and 20, each a function of the one before it."""
    with Checkpoints(context.workdir.checkpoints("sft")) as checkpoints:
        begun, w = 0, jnp.zeros(64)
        if checkpoints.latest_step() is not None:
            params, begun = checkpoints.restore(SHAPE, jnp.int32(0))
            w = params["w"]
        for step in range(int(begun) + 10, 30, 10):
            w = 2 * w + step
            checkpoints.save(step, {"w": w}, jnp.int32(step))
    return {"begun": int(begun), "step": 20}


def _use(context: Any) -> dict[str, Any]:
    with Checkpoints(context.workdir.checkpoints("sft")) as checkpoints:
        params = checkpoints.restore_params(SHAPE, context.workdir.final_step("sft"))
    return {"w": float(params["w"][0])}


def _damage(workdir: Workdir, *steps: int) -> None:
    for step in steps:
        folder = workdir.checkpoints("sft") / str(step) / "params"
        path = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
        path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_a_damaged_end_of_a_stage_is_reached_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same parameters, from the checkpoint before, and not an older policy instead."""
    config = load_config("configs/tiny.py:smoke")
    config.cpu_devices = 1
    workdir = Workdir(tmp_path, config)
    monkeypatch.setitem(pipeline.STAGES, "sft", _train)
    monkeypatch.setitem(pipeline.STAGES, "improve", _use)
    mesh = make_mesh(config)
    pipeline.run_all(config, workdir, mesh, ["sft", "improve"])
    assert (workdir.result("sft")["begun"], workdir.result("improve")["w"]) == (0, 40.0)
    workdir.forget("improve")
    _damage(workdir, 20)
    pipeline.run_all(config, workdir, mesh, ["improve"])
    assert (workdir.result("sft")["begun"], workdir.result("improve")["w"]) == (10, 40.0)
    errors = capsys.readouterr().err
    assert "sft/20 is damaged (params/" in errors
    assert "stage sft is repeated from its checkpoint 10\n" in errors
    workdir.forget("improve")
    _damage(workdir, 10, 20)
    with pytest.raises(UserError, match=r"sft/20 is damaged .*no intact one before it: delete"):
        pipeline.run_all(config, workdir, mesh, ["improve"])
    assert workdir.done("sft")


def test_rounds_of_the_lifelong_loop_come_before_what_shows_the_result() -> None:
    config = load_config("configs/tiny.py:smoke", ["lifelong.starts=(2, 1)"])
    names = pipeline.chosen(config, ())
    place = names.index("improve")
    assert names[place + 1 : place + 6] == [
        *("collect_2", "world_model_2", "reward_2", "improve_2"),
        "collect_3",
    ]
    assert names[-3:] == ["gates_after", "evaluate", "report"]
    assert set(names) <= {*pipeline.STAGES, pipeline.REPORT}
