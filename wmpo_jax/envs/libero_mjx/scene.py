"""A LIBERO scene that MJX can step, made from the benchmark's own by edits that can be counted.

What is edited, and why (docs/libero_mjx.md has what happened without):

1. Geoms that touch nothing go, and with them all meshes and textures; each body keeps the mass and
   inertia that MuJoCo had computed from them.
2. The arm's links, the pedestal and the floor touch nothing. The hand and the fingers become
   stacks of boxes around slices of their convex hulls.
3. The table's box becomes a plane at its top: infinite, so nothing falls off the table.
4. Hand and things touch the table and fixtures with points on their convex hulls, not with all
   their boxes, and fixtures don't touch each other: dozens of contacts, thousands of pairs fewer.
5. The friction cone is pyramidal, with `impratio` 3 (robosuite: elliptic, 20; with those, MJX's
   solver now and then throws a bowl).
6. Only the nearest pairs of boxes and the deepest contacts are kept: shapes have to be static.
"""

import itertools

import mujoco
import numpy as np
import scipy.spatial

FEET = 16  # points per thing that may touch the table and fixtures
HAND_FEET = 8  # the same of a part of the hand
LOWEST_FEET = 4  # among them, at the height on which a thing stands
LEVEL = 1e-3  # meters that count as one height
FOOT_RADIUS = 1e-4  # meters
_FIXTURE_BIT = 2  # of contype and conaffinity: fixtures and feet
SLICES = 4  # boxes in the place of a mesh
MAX_GEOM_PAIRS = 160
MAX_CONTACTS = 64
FRICTION_RATIO = 3.0
SOLVER_ITERATIONS = 20
LINE_SEARCH_ITERATIONS = 20
# Bodies whose contacts are given up, by the beginning of their names.
_UNTOUCHED = ("robot0_", "mount0_", "world")
_TABLE = "table"
_HAND = "gripper0_"


def reduced_scene(xml: str, original: mujoco.MjModel) -> mujoco.MjModel:
    """The model for MJX.

    Args:
      xml: the scene as robosuite compiles it.
      original: `xml` compiled, with fixtures where the reset has put them.
    Returns:
      A model with the same bodies, joints, actuators and sites in the same order.
    """
    spec = mujoco.MjSpec.from_string(xml)
    _fix_inertia(spec, original)
    for geom in list(spec.geoms):
        _edit_geom(spec, geom, original)
    boxes = spec.compile()
    for body in spec.bodies:
        if _moves_freely(body):
            _add_feet(body, boxes)
    _exclude_inner_contacts(spec)
    for kind in (spec.meshes, spec.materials, spec.textures, spec.skins):
        for element in list(kind):
            spec.delete(element)
    spec.add_numeric(name="max_geom_pairs", size=1, data=[MAX_GEOM_PAIRS])
    spec.add_numeric(name="max_contact_points", size=1, data=[MAX_CONTACTS])
    option = spec.option
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.impratio = FRICTION_RATIO
    option.iterations = SOLVER_ITERATIONS
    option.ls_iterations = LINE_SEARCH_ITERATIONS
    model = spec.compile()
    model.body_pos[:] = original.body_pos
    model.body_quat[:] = original.body_quat
    return model


def _fix_inertia(spec: mujoco.MjSpec, original: mujoco.MjModel) -> None:
    for body in spec.bodies:
        number = original.body(body.name).id
        if number == 0 or original.body_mass[number] == 0:
            continue
        body.explicitinertial = True
        body.mass = original.body_mass[number]
        body.ipos = original.body_ipos[number]
        body.iquat = original.body_iquat[number]
        body.inertia = original.body_inertia[number]
        body.fullinertia = np.full(6, np.nan)


def _edit_geom(spec: mujoco.MjSpec, geom: mujoco.MjsGeom, original: mujoco.MjModel) -> None:
    body = geom.parent.name
    silent = geom.contype == 0 and geom.conaffinity == 0
    if silent or body.startswith(_UNTOUCHED):
        spec.delete(geom)
        return
    number = original.geom(geom.name).id
    if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
        _stack_boxes(geom, original, number)
        spec.delete(geom)
        return
    if body == _TABLE:
        top = original.geom_pos[number] + [0, 0, original.geom_size[number][2]]
        geom.type = mujoco.mjtGeom.mjGEOM_PLANE
        geom.pos = top
    geom.condim = 3
    geom.material = ""
    if not _moves_freely(geom.parent):
        geom.contype = _FIXTURE_BIT
        geom.conaffinity = 0


def _moves_freely(body: mujoco.MjsBody) -> bool:
    """Whether the table may get in its way: things on the table, and parts of the hand."""
    free = any(joint.type == mujoco.mjtJoint.mjJNT_FREE for joint in body.joints)
    return bool(body.geoms) and (free or body.name.startswith(_HAND))


def _add_feet(body: mujoco.MjsBody, model: mujoco.MjModel) -> None:
    boxes = list(body.geoms)
    corners = np.concatenate([_corners(model, model.geom(geom.name).id) for geom in boxes])
    corners = corners[scipy.spatial.ConvexHull(corners).vertices]
    lowest = corners[corners[:, 2] < corners[:, 2].min() + LEVEL]
    feet = _spread(lowest, lowest[:1], LOWEST_FEET)
    count = HAND_FEET if body.name.startswith(_HAND) else FEET
    for number, foot in enumerate(_spread(corners, feet, count)):
        body.add_geom(
            name=f"{body.name}_foot{number}",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[FOOT_RADIUS, 0, 0],
            pos=foot,
            contype=0,
            conaffinity=_FIXTURE_BIT,
            friction=boxes[0].friction,
            solref=boxes[0].solref,
            solimp=boxes[0].solimp,
            condim=3,
        )


def _corners(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Of a box, in its body's frame, meters [8, 3]."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
    return model.geom_pos[geom] + signs * model.geom_size[geom] @ turn.reshape(3, 3).T


def _spread(points: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
    """`chosen` and further points, each as far as can be from those before; at most `count`."""
    while len(chosen) < min(count, len(points)):
        distance = np.linalg.norm(points[:, None] - chosen, axis=-1).min(axis=1)
        if distance.max() < LEVEL:
            break
        chosen = np.concatenate([chosen, points[[int(distance.argmax())]]])
    return chosen


def _stack_boxes(geom: mujoco.MjsGeom, original: mujoco.MjModel, number: int) -> None:
    """Boxes around equal slices of a mesh's convex hull, along its longest axis."""
    low, high = _slices(_vertices(original, number))
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, original.geom_quat[number])
    for part, (corner, opposite) in enumerate(zip(low, high, strict=True)):
        geom.parent.add_geom(
            name=f"{geom.name}_{part}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=original.geom_pos[number] + turn.reshape(3, 3) @ ((corner + opposite) / 2),
            quat=original.geom_quat[number],
            size=(opposite - corner) / 2,
            contype=geom.contype,
            conaffinity=geom.conaffinity,
            friction=geom.friction,
            solref=geom.solref,
            solimp=geom.solimp,
            condim=3,
        )


def _vertices(original: mujoco.MjModel, number: int) -> np.ndarray:
    """Of a mesh geom, in the geom's own frame, meters [V, 3]."""
    mesh = original.geom_dataid[number]
    start = original.mesh_vertadr[mesh]
    return original.mesh_vert[start : start + original.mesh_vertnum[mesh]].astype(float)


def _slices(points_V3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corners [SLICES, 3] of the slices of the points' convex hull."""
    points_V3 = points_V3[scipy.spatial.ConvexHull(points_V3).vertices]
    long = int(np.argmax(np.ptp(points_V3, axis=0)))
    cuts = np.linspace(points_V3[:, long].min(), points_V3[:, long].max(), SLICES + 1)
    one, other = (points_V3[ends] for ends in np.triu_indices(len(points_V3), 1))
    low, high = [], []
    for begin, end in itertools.pairwise(cuts):
        inside = points_V3[(points_V3[:, long] >= begin) & (points_V3[:, long] <= end)]
        # Where lines between vertices leave the slice: the hull's cross-sections.
        found = [inside]
        for cut in (begin, end):
            before, after = one[:, long] - cut, other[:, long] - cut
            crossing = before * after < 0
            share = (before / np.where(crossing, before - after, 1.0))[crossing, None]
            found.append(one[crossing] + share * (other[crossing] - one[crossing]))
        points = np.concatenate(found)
        low.append(points.min(axis=0))
        high.append(points.max(axis=0))
    return np.stack(low), np.stack(high)


def _exclude_inner_contacts(spec: mujoco.MjSpec) -> None:
    """The hand against its own fingers: as boxes they overlap."""
    parts = [body.name for body in spec.bodies if body.name.startswith(_HAND) and body.geoms]
    for one, other in itertools.combinations(parts, 2):
        if not (one.endswith("_tip") and other.endswith("_tip")):
            spec.add_exclude(bodyname1=one, bodyname2=other)
