"""Is this LIBERO the one that results are compared with? One stored episode tells.

    python -m wmpo_jax.envs.libero.golden              # run it, and say what differs
    python -m wmpo_jax.envs.libero.golden --record     # write golden.json anew, from this machine

Its answer to "a checkpoint that is known to be good scores nothing" is usually one of: other
versions, a picture that is not turned, another renderer, another controller.
"""

import argparse
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from einops import reduce

from wmpo_jax.envs.libero.pool import Start, WorkerPool
from wmpo_jax.envs.libero.protocol import make_protocol, versions
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_json

FILE = resources.files("wmpo_jax.envs.libero").joinpath("golden.json")
PROTOCOL = {"suite": "libero_spatial", "tasks": (0,), "image_size": 64}
STEPS = 16
# Physics is deterministic on one machine; other processors round differently and contacts amplify.
POSITION_TOLERANCE = 1e-3  # meters or radians
# Mean level of 8 x 8 tiles: renderers differ at edges, a turned or black picture everywhere.
PIXEL_TOLERANCE = 6.0
TILES = 8


def actions() -> np.ndarray:
    """Smooth and fixed: the hand sways, sinks and closes. float64 [STEPS, 7]."""
    t = np.arange(STEPS)
    return np.stack(
        [
            0.5 * np.sin(0.4 * t),
            0.5 * np.cos(0.3 * t),
            -0.3 + 0.0 * t,
            0.1 * np.sin(0.2 * t),
            0.1 * np.cos(0.5 * t),
            0.2 * np.sin(0.3 * t),
            (t < STEPS // 2) * 1.0,
        ],
        axis=1,
    )


def play() -> tuple[dict[str, Any], str]:
    """The golden episode here and now, and the renderer that drew it."""
    pool = WorkerPool(make_protocol(**PROTOCOL), workers=1)
    try:
        frame = pool.reset([Start(task=0, init=0, seed=0)])[0]
        pool.step(actions()[None], "last")
        qpos = pool.states()[0]["qpos"]
    finally:
        pool.close()
    tiles = reduce(frame.astype(float), "(a h) (b w) c -> a b", "mean", a=TILES, b=TILES)
    episode = {"packages": versions(), "qpos": qpos.tolist(), "tiles": tiles.round(2).tolist()}
    return episode, pool.renderer


def differences(found: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What is not as it was recorded, each in a few words; the likeliest cause first."""
    sayings = [
        f"{name} is {found['packages'][name]} and was {version}"
        for name, version in stored["packages"].items()
        if found["packages"][name] != version
    ]
    here, there = np.array(found["tiles"]), np.array(stored["tiles"])
    error = np.abs(here - there).mean()
    if error > PIXEL_TOLERANCE:
        turned = np.abs(np.rot90(here, 2) - there).mean() < PIXEL_TOLERANCE
        upside = np.abs(here[::-1] - there).mean() < PIXEL_TOLERANCE
        why = "it is turned by 180 degrees" if turned else "it is upside down" if upside else ""
        sayings.append(f"the picture differs by {error:.0f} levels{why and ': ' + why}")
    if len(found["qpos"]) != len(stored["qpos"]):
        sayings.append(f"the scene has {len(found['qpos'])} positions, not {len(stored['qpos'])}")
        return sayings
    drift = np.abs(np.array(found["qpos"]) - np.array(stored["qpos"])).max()
    if not drift <= POSITION_TOLERANCE:
        sayings.append(f"after {STEPS} actions something is {drift:.3g} m or rad off")
    return sayings


def check() -> None:
    """Raises UserError when LIBERO does not do here what it did when golden.json was recorded."""
    found, renderer = play()
    sayings = differences(found, json.loads(FILE.read_text()))
    if sayings:
        raise UserError(
            f"LIBERO is not what results are compared with ({renderer}): {'; '.join(sayings)}; "
            "no success rate is reported until python -m wmpo_jax.envs.libero.golden agrees."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    if parser.parse_args().record:
        episode, renderer = play()
        save_json(Path(str(FILE)), episode)
        print(f"recorded with {renderer}: {FILE}")
        return
    try:
        check()
    except UserError as error:
        sys.exit(f"wmpo_jax: {error}")
    print("LIBERO does what it did when golden.json was recorded")


if __name__ == "__main__":
    main()
