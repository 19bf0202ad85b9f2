"""A stand-in for MuJoCo Playground's registry: one environment, in Playground's own manner."""

from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
from flax import struct
from ml_collections import ConfigDict

from wmpo_jax.envs import quiet  # noqa: F401  # before MJX

XML = """
<mujoco>
  <option timestep="0.02" integrator="implicitfast"><flag contact="disable"/></option>
  <visual><headlight ambient="0.5 0.5 0.5"/></visual>
  <statistic center="0 0 0" extent="1"/>
  <asset>
    <mesh name="brick"
      vertex="0 0 0 0.4 0 0 0 0.2 0 0 0 0.1 0.4 0.2 0 0.4 0 0.1 0 0.2 0.1 0.4 0.2 0.1"/>
    <mesh name="chip" vertex="0 0 0 0.05 0 0 0 0.05 0 0 0 0.05"/>
  </asset>
  <worldbody>
    <camera name="above" pos="0 0 3" fovy="45"/>
    <geom type="plane" size="2 2 0.1" rgba="0.2 0.2 0.2 1"/>
    <site name="mark" pos="0 0.5 0.1" size="0.1" rgba="0 0 1 1"/>
    <site pos="0 -0.5 0.1" size="0.1" rgba="1 1 0 1" group="3"/>
    <body name="slider">
      <joint name="x" type="slide" axis="1 0 0" damping="5"/>
      <geom type="mesh" mesh="brick" rgba="1 0 0 1" mass="1"/>
      <geom type="mesh" mesh="chip" pos="0 0 0.1" rgba="0 1 0 1" mass="0.01"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="20"/></actuator>
</mujoco>
"""


@struct.dataclass
class State:
    """Playground's."""

    data: Any
    obs: Any
    reward: Any
    done: Any
    metrics: dict[str, Any]
    info: dict[str, Any]


class Slide:
    """The reward is the position; at 1 m Playground ends the episode, at -1 m physics breaks."""

    def __init__(self, config: ConfigDict) -> None:
        from mujoco import mjx

        self._config, self._mjx = config, mjx
        self.n_substeps = round(config.ctrl_dt / config.sim_dt)
        self.mj_model = mujoco.MjModel.from_xml_string(XML)
        self.mjx_model = mjx.put_model(self.mj_model, impl=config.impl)
        self.action_size = 1

    def reset(self, rng: jax.Array) -> State:
        rng, key = jax.random.split(rng)
        data = self._mjx.make_data(self.mj_model, impl=self._config.impl)
        data = data.replace(qpos=jax.random.uniform(key, (1,), minval=-0.2, maxval=0.2))
        # Python's numbers, and a dict that `step` writes into, are what Playground does, too.
        return State(data, data.qpos, 0.0, 0.0, {"near": 0.0}, {"rng": rng})

    def step(self, state: State, action: jax.Array) -> State:
        data, _ = jax.lax.scan(
            lambda data, _: (self._mjx.step(self.mjx_model, data), None),
            state.data.replace(ctrl=action),
            None,
            length=self.n_substeps,
        )
        place = data.qpos[0]
        data = data.replace(qpos=jnp.where(place < -1, jnp.nan, data.qpos))
        state.metrics.update(near=(place > 0.5).astype(float))
        done = (place > 1).astype(float)
        return State(data, data.qpos, place, done, state.metrics, state.info)


def module() -> Any:
    """What `import mujoco_playground` gives."""
    config = ConfigDict({"episode_length": 43, "impl": "warp", "ctrl_dt": 0.02, "sim_dt": 0.02})

    def load(name: str, config_overrides: dict[str, Any] | None = None) -> Slide:
        if name == "Broken":
            raise AttributeError("no attribute 'find_body'")
        chosen = config.copy_and_resolve_references()
        chosen.update(config_overrides or {})
        return Slide(chosen)

    found = ModuleType("mujoco_playground")
    names = ("Slide", "Broken", "PandaPickCube")
    registry = SimpleNamespace(ALL_ENVS=names, load=load, get_default_config=lambda name: config)
    return SimpleNamespace(**vars(found), registry=registry)
