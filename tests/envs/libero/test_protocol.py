"""What is measured is LIBERO's own, and a hash tells two ways of measuring apart."""

import dataclasses
import json
import subprocess

import pytest

from wmpo_jax.envs import registry
from wmpo_jax.envs.libero.benchmark import HORIZONS, STORED_STATES, language, make_protocol
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.envs.robosuite import environment
from wmpo_jax.runtime.errors import UserError

OPTIONS = {"tasks": (), "horizon": 0, "workers": 1, "wave": 4}


def test_tasks_are_those_of_the_benchmark():
    """The list in the package against LIBERO's own, in the environment that has it."""
    program = "tests.envs.libero.tasks"
    done = subprocess.run(
        environment.command(program),
        env=environment.variables(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    own = json.loads(done.stdout)
    assert own.keys() == HORIZONS.keys()
    for suite, rows in own.items():
        protocol = make_protocol(suite)
        assert [language(suite, task) for task in protocol.tasks] == rows["languages"]
        assert set(rows["states"]) == {STORED_STATES}
        assert len(rows["languages"]) == (90 if suite == "libero_90" else 10)


def test_every_field_and_every_version_counts_in_the_hash():
    protocol = make_protocol("libero_goal")
    changes = {
        "suite": "libero_object",
        "tasks": (1,),
        "horizon": 512,
        "chunk": 16,
        "image_size": 128,
        "settle_steps": 5,
        "camera": "frontview",
        "rotation": 0,
        "reset_seed": 7,
        "success": "another rule",
    }
    assert changes.keys() == {field.name for field in dataclasses.fields(protocol)}
    others = [dataclasses.replace(protocol, **{name: value}) for name, value in changes.items()]
    assert len({protocol.digest(), *(other.digest() for other in others)}) == 1 + len(changes)
    assert make_protocol("libero_goal").digest() == protocol.digest()


def test_what_does_not_exist_is_refused():
    with pytest.raises(UserError, match="choose from libero_spatial"):
        make_protocol("libero_moon")
    with pytest.raises(UserError, match="tasks 0 to 9, not 10"):
        make_protocol("libero_goal", tasks=(3, 10))
    with pytest.raises(UserError, match=r"libero\.horizon is -1"):
        make_protocol("libero_goal", horizon=-1)


def test_starts_ask_for_tasks_in_turn_and_stored_ones_are_kept_apart():
    env = registry.make_reality("libero_goal", 64, OPTIONS | {"tasks": (2, 5, 7)})
    assert isinstance(env, HostEnvironment)
    assert env.horizon == 304  # whole chunks around 300 actions
    stored = env.held_out(0, 150)
    assert (stored < 0).all() and len(set(stored.tolist())) == 150
    assert env.instruction_ids(stored).tolist()[:4] == [0, 1, 2, 0]
    assert env.instructions[1] == language("libero_goal", 5)
    with pytest.raises(UserError, match="stores 150 initial states"):
        env.held_out(0, 151)


def test_tabletop_environments_are_not_host_environments():
    assert not isinstance(registry.make("press"), HostEnvironment)
