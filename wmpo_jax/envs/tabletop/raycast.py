"""Rays against MuJoCo's primitive shapes, written so that XLA fuses a whole picture into few loops.

A vector is a tuple of three arrays (x, y, z) that broadcast against each other: for camera rays the
origin is one point and the direction an array over rays, for shadow rays toward a distant light it
is the other way round. Every `enter_*` answers, in the shape's own frame (MuJoCo's conventions:
half-sizes, axis along z), at which multiple of `direction` the ray enters the shape, or MISS.
Directions need not have unit length. Only the entry is ever needed: from its own lit surface a
convex shape is entered behind the origin, so it cannot shadow itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

Vec3 = tuple[jax.Array, jax.Array, jax.Array]
Size = tuple[float, float, float]

MISS = 1e9
_TINY = 1e-9  # keeps 1/x finite for rays parallel to a face or an axis


def vector(values: jax.Array | np.ndarray | Size) -> Vec3:
    x, y, z = (jnp.asarray(values[axis], jnp.float32) for axis in range(3))
    return x, y, z


def dot(a: Vec3, b: Vec3) -> jax.Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(origin: Vec3, t: jax.Array, direction: Vec3) -> Vec3:
    """The point origin + t * direction."""
    x, y, z = (o + t * d for o, d in zip(origin, direction, strict=True))
    return x, y, z


def minus(a: Vec3, b: Vec3) -> Vec3:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def turn_local(xmat_33: jax.Array, direction: Vec3) -> Vec3:
    """A world direction in the frame whose axes are the columns of `xmat_33`."""
    return (
        dot(vector(xmat_33[:, 0]), direction),
        dot(vector(xmat_33[:, 1]), direction),
        dot(vector(xmat_33[:, 2]), direction),
    )


def turn_world(xmat_33: jax.Array, direction: Vec3) -> Vec3:
    """The way back from `turn_local`."""
    return (
        dot(vector(xmat_33[0]), direction),
        dot(vector(xmat_33[1]), direction),
        dot(vector(xmat_33[2]), direction),
    )


def place_local(xpos_3: jax.Array, xmat_33: jax.Array, point: Vec3) -> Vec3:
    """A world point in the frame at `xpos_3`."""
    return turn_local(xmat_33, minus(point, vector(xpos_3)))


def unit(vector: Vec3) -> Vec3:
    scale = jax.lax.rsqrt(dot(vector, vector) + _TINY * _TINY)
    return vector[0] * scale, vector[1] * scale, vector[2] * scale


def enter_plane(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    """One-sided, as MuJoCo draws it; a half-size of 0 means without end in that direction."""
    t = -origin[2] / jnp.minimum(direction[2], -_TINY)
    hit = (direction[2] < 0) & (origin[2] > 0)
    for axis in (0, 1):
        if size[axis] > 0:
            hit &= jnp.abs(origin[axis] + t * direction[axis]) < size[axis]
    return jnp.where(hit, t, MISS)


def enter_sphere(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    inverse = 1.0 / dot(direction, direction)
    middle = -dot(origin, direction) * inverse
    nearest = along(origin, middle, direction)
    # r^2 - (closest approach)^2 loses fewer float32 digits than the textbook b^2 - ac.
    inside = size[0] ** 2 - dot(nearest, nearest)
    return jnp.where(inside > 0, middle - jnp.sqrt(jnp.maximum(inside, 0) * inverse), MISS)


def enter_ellipsoid(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    origin = (origin[0] / size[0], origin[1] / size[1], origin[2] / size[2])
    direction = (direction[0] / size[0], direction[1] / size[1], direction[2] / size[2])
    return enter_sphere((1.0, 1.0, 1.0), origin, direction)


def _tube(radius: float, origin: Vec3, direction: Vec3) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Entry into and exit from a cylinder without ends, and whether it is touched at all."""
    inverse = 1.0 / jnp.maximum(direction[0] ** 2 + direction[1] ** 2, _TINY)
    middle = -(origin[0] * direction[0] + origin[1] * direction[1]) * inverse
    x, y, _ = along(origin, middle, direction)
    inside = radius**2 - (x * x + y * y)
    half = jnp.sqrt(jnp.maximum(inside, 0) * inverse)
    return middle - half, middle + half, inside > 0


def _slab(half: float, origin: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Entry into and exit from the space between two parallel faces."""
    inverse = 1.0 / jnp.where(jnp.abs(direction) < _TINY, _TINY, direction)
    middle, width = -origin * inverse, jnp.abs(inverse) * half
    return middle - width, middle + width


def enter_cylinder(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    side_in, side_out, touched = _tube(size[0], origin, direction)
    cap_in, cap_out = _slab(size[1], origin[2], direction[2])
    enter = jnp.maximum(side_in, cap_in)
    return jnp.where(touched & (enter < jnp.minimum(side_out, cap_out)), enter, MISS)


def enter_capsule(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    side_in, _, touched = _tube(size[0], origin, direction)
    height = origin[2] + side_in * direction[2]
    end = jnp.clip(height, -size[1], size[1])
    # Beyond the straight part only the ball at that end can be hit.
    ball_in = enter_sphere(size, (origin[0], origin[1], origin[2] - end), direction)
    enter = jnp.where(height == end, side_in, ball_in)
    return jnp.where(touched, enter, MISS)


def enter_box(size: Size, origin: Vec3, direction: Vec3) -> jax.Array:
    (x_in, x_out), (y_in, y_out), (z_in, z_out) = (
        _slab(size[axis], origin[axis], direction[axis]) for axis in range(3)
    )
    enter = jnp.maximum(jnp.maximum(x_in, y_in), z_in)
    leave = jnp.minimum(jnp.minimum(x_out, y_out), z_out)
    return jnp.where(enter < leave, enter, MISS)


def _normal_plane(size: Size, point: Vec3) -> Vec3:
    del size
    zero = jnp.zeros_like(point[2])
    return zero, zero, zero + 1.0


def _normal_sphere(size: Size, point: Vec3) -> Vec3:
    return point[0] / size[0], point[1] / size[0], point[2] / size[0]


def _normal_ellipsoid(size: Size, point: Vec3) -> Vec3:
    return unit((point[0] / size[0] ** 2, point[1] / size[1] ** 2, point[2] / size[2] ** 2))


def _normal_capsule(size: Size, point: Vec3) -> Vec3:
    above = point[2] - jnp.clip(point[2], -size[1], size[1])
    return _normal_sphere(size, (point[0], point[1], above))


def _normal_cylinder(size: Size, point: Vec3) -> Vec3:
    # The surface that the point is closer to: a cap or the side.
    to_cap = size[1] - jnp.abs(point[2])
    to_side = size[0] - jnp.sqrt(point[0] ** 2 + point[1] ** 2)
    on_cap = to_cap < to_side
    zero = jnp.zeros_like(to_cap)
    return (
        jnp.where(on_cap, zero, point[0] / size[0]),
        jnp.where(on_cap, zero, point[1] / size[0]),
        jnp.where(on_cap, jnp.sign(point[2]), zero),
    )


def _normal_box(size: Size, point: Vec3) -> Vec3:
    x, y, z = (size[axis] - jnp.abs(point[axis]) for axis in range(3))
    on_x = (x < y) & (x < z)
    on_y = ~on_x & (y < z)
    on_z = ~on_x & ~on_y
    return (
        jnp.where(on_x, jnp.sign(point[0]), 0.0),
        jnp.where(on_y, jnp.sign(point[1]), 0.0),
        jnp.where(on_z, jnp.sign(point[2]), 0.0),
    )


# Where a ray enters each supported shape.
ENTER: dict[int, Callable[[Size, Vec3, Vec3], jax.Array]] = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): enter_plane,
    int(mujoco.mjtGeom.mjGEOM_SPHERE): enter_sphere,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): enter_capsule,
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): enter_ellipsoid,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): enter_cylinder,
    int(mujoco.mjtGeom.mjGEOM_BOX): enter_box,
}

# Outward unit normal at a point of the surface.
NORMAL: dict[int, Callable[[Size, Vec3], Vec3]] = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): _normal_plane,
    int(mujoco.mjtGeom.mjGEOM_SPHERE): _normal_sphere,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): _normal_capsule,
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): _normal_ellipsoid,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): _normal_cylinder,
    int(mujoco.mjtGeom.mjGEOM_BOX): _normal_box,
}
