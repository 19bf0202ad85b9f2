"""The edits keep what moves, and drop what MJX cannot have."""

import mujoco
import numpy as np
import pytest

from wmpo_jax.envs.libero import truth
from wmpo_jax.envs.libero_mjx import scene


@pytest.fixture(scope="module")
def models(recorded):
    """(original, reduced)"""
    found, episode = recorded
    original = truth.original_model(found, episode)
    return original, scene.reduced_scene(found["xml"], original)


def test_bodies_and_joints_are_the_same(models):
    original, reduced = models
    for field in (
        "body_mass",
        "body_inertia",
        "body_ipos",
        "body_pos",
        "jnt_range",
        "dof_armature",
    ):
        np.testing.assert_array_equal(getattr(reduced, field), getattr(original, field))
    assert [reduced.body(i).name for i in range(reduced.nbody)] == [
        original.body(i).name for i in range(original.nbody)
    ]
    np.testing.assert_array_equal(reduced.actuator_ctrlrange, original.actuator_ctrlrange)


def test_only_shapes_that_mjx_collides_are_left(models):
    _, reduced = models
    kinds = {mujoco.mjtGeom(int(kind)) for kind in reduced.geom_type}
    assert kinds == {
        mujoco.mjtGeom.mjGEOM_PLANE,
        mujoco.mjtGeom.mjGEOM_BOX,
        mujoco.mjtGeom.mjGEOM_SPHERE,
    }
    assert reduced.nmesh == reduced.ntex == 0


def test_things_rest_where_they_rested(recorded, models):
    """In C, one second, nobody acting on them: within half a millimeter of the original."""
    _, episode = recorded
    places = []
    for model in models:
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = episode["qpos"], episode["qvel"]
        mujoco.mj_step(model, data, nstep=500)
        things = [n for n in range(model.nbody) if model.body(n).name.endswith("_1_main")]
        places.append(data.xpos[things])
    assert len(places[0]) >= 4
    np.testing.assert_allclose(places[1], places[0], atol=5e-4)


def test_slices_hold_all_points_and_no_empty_box():
    points = np.random.default_rng(0).normal(size=(200, 3)) * [0.1, 0.2, 1.0]
    low, high = scene._slices(points)
    assert low.shape == high.shape == (scene.SLICES, 3)
    for point in points:
        assert any(
            (point >= corner - 1e-9).all() and (point <= opposite + 1e-9).all()
            for corner, opposite in zip(low, high, strict=True)
        )
    # A slice in the middle of a spindle is wider than one at its end.
    width = (high - low)[:, 0]
    assert width[1:3].min() > width[[0, 3]].max() * 0.9
