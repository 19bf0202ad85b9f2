"""A checkpoint comes back bit by bit, is never half written, and says what does not fit."""

import shutil
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


def halves(tree: dict[str, Any]) -> tuple[Any, Any]:
    """(parameters, everything else)."""
    return tree["params"], {name: value for name, value in tree.items() if name != "params"}


def test_round_trip_into_a_fresh_process_state(tmp_path: Path) -> None:
    saved = state(fill=0.25)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, *halves(saved))
    params, rest = Checkpoints(tmp_path).restore(*halves(state()))
    restored = {"params": params} | rest
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(leaves(saved), leaves(restored), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert isinstance(restored["step"], int) and restored["rate"] == 0.1
    before, after = (jax.random.uniform(tree["key"], (3,)) for tree in (saved, restored))
    assert np.array_equal(before, after)


def test_parameters_are_read_without_the_rest(tmp_path: Path) -> None:
    saved = state(fill=0.25)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, *halves(saved))
    shutil.rmtree(tmp_path / "5" / "train_state")
    params = Checkpoints(tmp_path).restore_params(state()["params"])
    assert np.array_equal(params.kernel[...], saved["params"].kernel[...])


def test_arrays_may_be_donated_after_a_save(tmp_path: Path) -> None:
    """A save goes on in the background while the next step uses the buffers up."""
    checkpoints = Checkpoints(tmp_path)
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {f"leaf{i}": jnp.zeros((500, 500)) for i in range(20)}
    for step in (0, 1, 2):
        checkpoints.save(step, tree)
        tree = advance(tree)
    for step in (1, 2):
        found = checkpoints.restore_params(tree, step=step)
        assert all((leaf == step).all() for leaf in found.values())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest_step() is None
    for step in (1, 2, 3):
        checkpoints.save(step, jnp.float32(step))
    assert checkpoints.latest_step() == 3
    assert checkpoints.restore_params(jnp.float32(0), step=2) == 2
    with pytest.raises(UserError, match="no checkpoint 1"):
        checkpoints.restore_params(jnp.float32(0), step=1)


def test_nothing_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(tmp_path).restore_params(state())


def test_another_tree_is_shown_leaf_by_leaf(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(width=8) | {"gone": jnp.zeros(2)})
    with pytest.raises(UserError) as caught:
        Checkpoints(tmp_path).restore_params(state(width=16) | {"new": jnp.zeros(3)})
    message = str(caught.value)
    assert "params/kernel/value: expected float32[3,16], found float32[3,8]" in message
    assert "gone: expected nothing, found float32[2]" in message
    assert "new: expected float32[3], found nothing" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray, lambda x: float(x[1])])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, value: float, kind: Any) -> None:
    checkpoints = Checkpoints(tmp_path / "sft")
    good = {"w": jnp.ones(3), "half": jnp.ones(2, jnp.bfloat16), "n": 3, "key": jax.random.key(0)}
    checkpoints.save(1, good)
    checkpoints.wait()
    before = sorted(tmp_path.rglob("*"))
    poisoned = kind(np.array([0, value], np.float32))
    for trees in ((good, {"m": poisoned}), (good | {"m": poisoned}, None)):
        with pytest.raises(
            UserError, match=r"1 of \d arrays of stage sft are not finite at step 2"
        ):
            checkpoints.save(2, *trees)
    assert sorted(tmp_path.rglob("*")) == before


def two_checkpoints(directory: Path) -> None:
    with Checkpoints(directory) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {"w": jnp.full((300,), step)}, {"m": jnp.full((90,), step)})


TEMPLATE = {"w": jnp.zeros((300,), jnp.int32)}, {"m": jnp.zeros((90,), jnp.int32)}


def files_of(directory: Path, step: int = 20) -> list[Path]:
    """What has a checksum, and the list of checksums."""
    named = [p for item in ("params", "train_state") for p in (directory / str(step)).rglob("*")]
    return sorted({p for p in named if p.is_file() and p.parent != directory / str(step)})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"x")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "flipped": flip,
    "truncated": halve,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "replaced": lambda path: path.write_bytes(b"[]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two_checkpoints(tmp_path / "whole")
    for number, file in enumerate([*files_of(tmp_path / "whole"), Path("20/checksums.json")]):
        directory = tmp_path / str(number) / "sft"
        name = file.relative_to(tmp_path / "whole") if file.is_absolute() else file
        shutil.copytree(tmp_path / "whole", directory)
        if (directory / name).stat().st_size or how in ("flipped", "deleted"):
            DAMAGE[how](directory / name)
            checkpoints = Checkpoints(directory)
            params, train_state = checkpoints.restore(*TEMPLATE)
            assert (params["w"] == 10).all() and (train_state["m"] == 10).all()
            assert "sft/20 is damaged" in (message := capsys.readouterr().err)
            assert name.name in message or name.name == "checksums.json"
            assert "using checkpoint 10" in message
            assert checkpoints.latest_step() == 10


@pytest.mark.parametrize("content", ["", "[]", "{", None])
def test_what_orbax_notes_beside_the_arrays_is_not_needed(
    tmp_path: Path, content: str | None
) -> None:
    two_checkpoints(tmp_path)
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        path = tmp_path / "20" / name
        path.unlink(missing_ok=True) if content is None else path.write_text(content)
    for name in ("20 copy", "notes"):
        (tmp_path / name).mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.restore_params(TEMPLATE[0])["w"] == 20).all()
        checkpoints.save(30, *TEMPLATE)
        assert checkpoints.latest_step() == 30


def test_a_step_that_is_asked_for_is_not_replaced_by_another(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints" / "sft"
    two_checkpoints(directory)
    halve(directory / "20" / "params" / "_METADATA")
    with pytest.raises(UserError, match=r"params/_METADATA has changed\).* its checkpoint 10\."):
        Checkpoints(directory).restore_params(TEMPLATE[0], step=20)
    # The advice: the stage runs again, and continues from 10.
    with Checkpoints(directory) as checkpoints:
        params, train_state = checkpoints.restore(*TEMPLATE)
        assert (params["w"] == 10).all()
        checkpoints.save(20, params, train_state)
    assert (Checkpoints(directory).restore_params(TEMPLATE[0], step=20)["w"] == 10).all()


def test_no_intact_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints" / "sft"
    two_checkpoints(directory)
    for step in (10, 20):
        flip(directory / str(step) / "train_state" / "_METADATA")
    for step in (None, 20):
        with pytest.raises(UserError, match=r"no intact one .* delete .*/sft and") as caught:
            Checkpoints(directory).restore(*TEMPLATE, step=step)
        assert "stages/sft.json" in str(caught.value)
    # The parameters are as they were: for those who need nothing else that is enough.
    assert (Checkpoints(directory).restore_params(TEMPLATE[0])["w"] == 20).all()


def test_a_damaged_checkpoint_makes_room_for_its_repetition(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    shutil.rmtree(tmp_path / "20" / "params")
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(*TEMPLATE)
        checkpoints.save(15, *restored)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "15"]


FULL = """
import resource, sys
import numpy as np
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import UserError
draw = np.random.default_rng(0)
tree = {f"w{i}": draw.normal(size=(200, 200)) for i in range(40)}  # whose writes fail one by one
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, tree)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(2, tree)
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "/2 could not be written (File too large): make room" in done.stdout
    assert done.stderr == ""
    assert Checkpoints(tmp_path).latest_step() == 1


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
    checkpoints.wait()
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
        values = np.stack(list(checkpoints.restore_params(template).values()))
        assert (values == step).all()
