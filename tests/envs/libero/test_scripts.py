"""How a bowl in an open drawer is taken; the episodes themselves need LIBERO (docs/libero.md)."""

from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from wmpo_jax.envs.libero import scripts

# A drawer open toward +x, 0.2 m wide and 0.16 m deep, as LIBERO's regions are: upright axis first.
SCENE = """
<mujoco><worldbody>
  <body name="hand"><site name="grip"/></body>
  <body name="cabinet" pos="0 0 1">
    <body name="drawer">
      <site name="region" pos=".2 0 0" size=".03 .08 .1" xyaxes="0 0 -1 1 0 0"/>
    </body>
  </body>
  <body name="bowl" pos=".2 0 1">
    <freejoint/>
    <geom name="near" type="box" pos="0 -.05 .02" size=".02 .005 .02"/>
    <geom name="far" type="box" pos="0 .05 .02" size=".02 .005 .02"/>
  </body>
</worldbody></mujoco>
"""


@pytest.fixture
def env() -> Any:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    seen = SimpleNamespace(
        _data=data,
        body_xpos=data.xpos,
        site_xpos=data.site_xpos,
        site_xmat=data.site_xmat,
        get_site_xpos=lambda name: data.site(name).xpos,
        get_site_xmat=lambda name: data.site(name).xmat.reshape(3, 3),
    )
    inner = SimpleNamespace(
        sim=SimpleNamespace(model=SimpleNamespace(_model=model), data=seen),
        robots=[SimpleNamespace(eef_site_id=model.site("grip").id)],
        obj_body_id={name: model.body(name).id for name in ("bowl", "cabinet")},
        obj_of_interest=["bowl", "cabinet"],
        object_sites_dict={"region": SimpleNamespace(parent_name="cabinet")},
        parsed_problem={"initial_state": [["on", "cup", "table"], ["in", "bowl", "region"]]},
        get_object=lambda name: SimpleNamespace(contact_geoms=["near", "far"]),
    )
    return SimpleNamespace(env=inner, obj_of_interest=inner.obj_of_interest)


def turn_bowl(env, quat) -> None:
    model, data = env.env.sim.model._model, env.env.sim.data._data
    data.joint(0).qpos[3:] = quat
    mujoco.mj_forward(model, data)


def test_the_script_is_chosen_by_where_the_thing_begins(env):
    assert isinstance(scripts.expert(env, np.random.default_rng(0)), scripts.OutOfDrawer)
    env.env.parsed_problem["initial_state"] = [["on", "bowl", "region"]]
    assert type(scripts.expert(env, np.random.default_rng(0))) is scripts.PickAndPlace


def test_the_corner_is_at_the_front(env):
    """Off the cabinet, and the one toward which the fingers have to turn least."""
    env.env.sim.data._data.xpos[env.env.obj_body_id["bowl"]][1] = 0.01
    corner = scripts.roomiest_corner(env.env, "bowl", "region")
    np.testing.assert_allclose(corner, [0.28, -0.1], atol=1e-9)


def test_fingers_turn_the_short_way(env):
    """They are the same after half a turn; of an unturned site they move along x."""
    for degrees, wanted in ((30, 30), (-60, -60), (150, -30), (-100, 80)):
        side = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
        assert np.rad2deg(scripts.turn_to(env.env, side)) == pytest.approx(wanted)


def test_the_rim_of_a_bowl_that_leans_is_lower_there(env):
    side = np.array([0.0, 1.0])
    level = scripts.rim_toward(env.env, "bowl", side)
    np.testing.assert_allclose(level, [0.2, 0.05, 1.04], atol=1e-9)
    turn_bowl(env, [np.cos(-0.05), np.sin(-0.05), 0, 0])  # 0.1 rad, the far side down
    leaning = scripts.rim_toward(env.env, "bowl", side)
    assert leaning[2] == pytest.approx(1.04 - 0.05 * 0.1, abs=1e-3)


def test_it_is_pulled_forward_before_it_is_lifted(env):
    script = scripts.OutOfDrawer(env, np.random.default_rng(0), "region")
    pulled, lifted = script.lift(1.3)
    np.testing.assert_array_equal(pulled[:2], lifted[:2])
    assert pulled[2] == scripts.hand_position(env.env)[2] and lifted[2] == 1.3
    action = script()
    assert 0 < abs(action[5]) <= 1 and action[3] == action[4] == 0


def test_outside_of_drawers_the_hand_is_never_turned(env):
    assert not scripts.PickAndPlace(env, np.random.default_rng(0))()[3:6].any()
