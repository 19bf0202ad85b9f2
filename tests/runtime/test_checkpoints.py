"""A checkpoint comes back bit by bit, is never half written, and says what does not fit."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import UserError


def state(width: int = 8, fill: float = 0.0) -> dict[str, Any]:
    _, params = nnx.split(nnx.Linear(3, width, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: leaf + fill, params)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "key": jax.random.key(7),
        "step": 3,
        "rate": 0.1,
        "half": jnp.full((2,), 1.5, jnp.bfloat16),
    }


def leaves(tree: Any) -> list[np.ndarray]:
    tree = tree | {"key": jax.random.key_data(tree["key"])}
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_round_trip_into_a_fresh_process_state(tmp_path: Path) -> None:
    saved = state(fill=0.25)
    Checkpoints(tmp_path).save(5, saved)
    restored = Checkpoints(tmp_path).restore(state())
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(leaves(saved), leaves(restored), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert isinstance(restored["step"], int) and restored["rate"] == 0.1
    before, after = (jax.random.uniform(tree["key"], (3,)) for tree in (saved, restored))
    assert np.array_equal(before, after)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest_step() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.float32(step)})
    assert checkpoints.latest_step() == 3
    assert checkpoints.restore({"x": jnp.float32(0)}, step=2)["x"] == 2
    with pytest.raises(UserError, match="no checkpoint 1"):
        checkpoints.restore({"x": jnp.float32(0)}, step=1)


def test_nothing_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(tmp_path).restore(state())


def test_another_tree_is_shown_leaf_by_leaf(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, state(width=8) | {"gone": jnp.zeros(2)})
    with pytest.raises(UserError) as caught:
        Checkpoints(tmp_path).restore(state(width=16) | {"new": jnp.zeros(3)})
    message = str(caught.value)
    assert "params/kernel/value: expected float32[3,16], found float32[3,8]" in message
    assert "gone: expected nothing, found float32[2]" in message
    assert "new: expected float32[3], found nothing" in message


@pytest.mark.parametrize("pattern", ["**/d/*", "**/manifest.ocdbt", "**/_METADATA"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, pattern: str) -> None:
    Checkpoints(tmp_path).save(1, state())
    for path in tmp_path.glob(pattern):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"Checkpoint .*/1 is damaged"):
        Checkpoints(tmp_path).restore(state())


SAVER = """
import sys
import jax.numpy as jnp
from wmpo_jax.runtime.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
step = checkpoints.latest_step() or 0
while True:
    step += 1
    tree = {f"leaf{i}": jnp.full((200,), step) for i in range(40)}
    print(step, flush=True)
    checkpoints.save(step, tree)
"""


def kill_inside_a_save(directory: Path, delay: float) -> int:
    """Lets one save finish, kills the next one `delay` seconds after its start; its number."""
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(directory)], stdout=subprocess.PIPE)
    assert saver.stdout is not None
    saver.stdout.readline()
    begun = int(saver.stdout.readline())  # printed after the save before it has returned
    time.sleep(delay)
    saver.kill()
    later = saver.stdout.read().split()  # saves that began while this process slept
    saver.wait()
    return int(later[-1]) if later else begun


@pytest.mark.slow
def test_killed_inside_a_save(tmp_path: Path) -> None:
    template = {f"leaf{i}": jnp.zeros((200,), jnp.int32) for i in range(40)}
    for delay in (0.0, 0.03, 0.08):
        begun = kill_inside_a_save(tmp_path, delay)
        checkpoints = Checkpoints(tmp_path)
        step = checkpoints.latest_step()
        assert step in (begun - 1, begun)
        values = np.stack(list(checkpoints.restore(template).values()))
        assert (values == step).all()
