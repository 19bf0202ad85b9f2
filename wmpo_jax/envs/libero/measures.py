"""What of an episode is compared with upstream's LIBERO: a picture, where things are, which files.

Used by the script that records upstream (tests/golden/record_libero.py) and by workers.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TILES = 8
ACTIONS = 16
_FILE = re.compile(r'file="([^"]+)"')


def actions() -> np.ndarray:
    """Smooth and fixed: the hand sways, sinks, closes. float64 [ACTIONS, 7], gripper 1 = open."""
    t = np.arange(ACTIONS)
    return np.stack(
        [
            0.5 * np.sin(0.4 * t),
            0.5 * np.cos(0.3 * t),
            -0.3 + 0.0 * t,
            0.1 * np.sin(0.2 * t),
            0.1 * np.cos(0.5 * t),
            0.2 * np.sin(0.3 * t),
            (t < ACTIONS // 2) * 1.0,
        ],
        axis=1,
    )


def picture(frame_HWC: np.ndarray) -> dict[str, Any]:
    """Of a uint8 frame: its size, mean `levels` of red, green, blue; means of 8 x 8 `tiles` (gray);
    and `detail`, the mean difference of neighboring pixels, which another resolution changes."""
    frame = frame_HWC.astype(float)
    height, width = (length // TILES for length in frame.shape[:2])
    cropped = frame[: TILES * height, : TILES * width]
    tiles = cropped.reshape(TILES, height, TILES, width, 3).mean(axis=(1, 3, 4))
    return {
        "size": list(frame.shape[:2]),
        "levels": frame.mean(axis=(0, 1)).round(2).tolist(),
        "tiles": tiles.round(1).tolist(),
        "detail": round(float(np.abs(np.diff(frame, axis=1)).mean()), 2),
    }


def situation(env: Any) -> dict[str, Any]:
    """Where everything is in a LIBERO environment: `time` (s), `hand` and `things` by name (meters
    and quaternion), and positions of the two `fingers` (meters)."""
    data = env.sim.data
    joints = [env.sim.model.get_joint_qpos_addr(name) for name in env.robots[0].gripper.joints]
    things = {
        name: [*data.body_xpos[body].round(5).tolist(), *data.body_xquat[body].round(4).tolist()]
        for name, body in sorted(env.obj_body_id.items())
    }
    return {
        "time": round(float(data.time), 4),
        "hand": data.site_xpos[env.robots[0].eef_site_id].round(5).tolist(),
        "fingers": data.qpos[joints].round(5).tolist(),
        "things": things,
    }


def origins(env: Any, bddl: Path, state: np.ndarray) -> dict[str, int]:
    """Checksums of what an episode is made from: task file, stored state, meshes and textures."""
    files = sorted({Path(name) for name in _FILE.findall(env.model.get_xml())})
    checksum = 0
    for file in sorted(files, key=lambda path: (path.name, str(path))):
        checksum = zlib.crc32(file.read_bytes(), checksum)
    return {
        "task file": zlib.crc32(bddl.read_bytes()),
        "initial state": zlib.crc32(np.ascontiguousarray(state, np.float64).tobytes()),
        "meshes and textures": checksum,
    }
