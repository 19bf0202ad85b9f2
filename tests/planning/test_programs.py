"""Plans are of the programs that stages run, with the data that they get at the released sizes."""

import jax

from wmpo_jax.assembly import agents
from wmpo_jax.planning.programs import program
from wmpo_jax.planning.task import planned_task
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.mesh import mesh_of

CONFIG = load_config("configs/libero.py")


def test_the_world_model_encodes_its_windows_and_reads_no_frame_that_it_does_not_use():
    """Four frames of history and a chunk of eight: without self-forcing nothing comes before."""
    mesh = mesh_of(jax.devices()[:1], (1, 1, 1))
    _, data, _ = program("world_model", CONFIG, mesh).arguments
    assert data.rows["frames_BTHWC"].shape == (128, 12, 256, 256, 3)
    assert data.rows["actions_BKA"].shape == (128, 8, 7)
    assert {"autoencoder", "rollouts"} == data.constants.keys()


def test_self_forcing_reads_the_chunk_before():
    config = load_config("configs/libero.py", ["world_model.self_forcing=0.5"])
    settings = agents.world_model_training(config, planned_task(config))
    spec = settings.window_spec
    assert (settings.lead, spec.history, spec.past_actions) == (8, 12, 8)
