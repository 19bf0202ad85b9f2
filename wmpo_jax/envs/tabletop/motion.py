"""How hands move: steering toward a point, random play, and the direction of a biased aim."""

import jax
import jax.numpy as jnp

# A demonstrator who aims past the target does so to the left and a little away from the camera.
BIAS_DIRECTION = (-0.94, 0.34)

DRIFT_EDGE = -0.04  # meters; right of this an expert whose aim drifts is off,
DRIFT_WIDTH = 0.02  # and over so many it goes from right to wrong

PLAY_SEGMENT = 4  # control steps between two waypoints of random play
PLAY_NEAR = 0.5  # probability that a waypoint is near some object
PLAY_SPREAD = 0.10  # meters, standard deviation of a near waypoint around its object
PLAY_LOW = 0.5  # probability that a waypoint is at the bottom of the workspace
PLAY_NOISE = 0.25  # standard deviation of the noise on an action, in action units


def steer(position: jax.Array, goal: jax.Array, reach: float) -> jax.Array:
    """The action in [-1, 1] that moves toward `goal` when one unit moves `reach` meters."""
    return jnp.clip((goal - position) / reach, -1.0, 1.0)


def drift(target: jax.Array, bias: float) -> jax.Array:
    """How far [2] an expert aims beside `target`: not on the left of the table, `bias` on the rest.

    As if one of two cameras were not calibrated.
    """
    share = jax.nn.sigmoid((target[0] - DRIFT_EDGE) / DRIFT_WIDTH)
    return share * bias * jnp.array(BIAS_DIRECTION)


def waypoint(key: jax.Array, low: jax.Array, high: jax.Array, objects: jax.Array) -> jax.Array:
    """A point to play toward: anywhere between `low` and `high`, or near one of `objects` [N, 3].

    Half of the waypoints are on the table, where the objects are.
    """
    anywhere_key, pick_key, offset_key, near_key, low_key = jax.random.split(key, 5)
    anywhere = jax.random.uniform(anywhere_key, (3,), minval=low, maxval=high)
    picked = objects[jax.random.randint(pick_key, (), 0, objects.shape[0])]
    near = picked[:2] + PLAY_SPREAD * jax.random.normal(offset_key, (2,))
    xy = jnp.where(jax.random.bernoulli(near_key, PLAY_NEAR), near, anywhere[:2])
    z = jnp.where(jax.random.bernoulli(low_key, PLAY_LOW), low[2], anywhere[2])
    return jnp.clip(jnp.append(xy, z), low, high)


def random_switch(key: jax.Array) -> jax.Array:
    """Close (1) or open (-1) the hand, with equal probability."""
    return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
