"""MuJoCo's own renderer, in a process of its own.

Mesa's OpenGL and TensorFlow bring two LLVMs, and a process that holds both dies.
"""

import contextlib
import copy
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import mujoco
import numpy as np

Segments = Callable[[mujoco.MjModel, mujoco.MjData, str, int], np.ndarray]


@contextlib.contextmanager
def renderer_process() -> Iterator[Segments]:
    """Gives `segment` below, computed in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_choose_egl) as pool:
        yield lambda *scene: pool.submit(segment, *scene).result(timeout=120)


def _choose_egl() -> None:
    """Off-screen OpenGL whatever MUJOCO_GL was when this process imported mujoco."""
    os.environ["PYOPENGL_PLATFORM"] = "egl"  # mujoco.egl refuses any other
    from mujoco.egl import GLContext
    from mujoco.rendering.classic import gl_context

    gl_context.GLContext = GLContext


def segment(model: mujoco.MjModel, data: mujoco.MjData, camera: str, side: int) -> np.ndarray:
    """int (side, side): the geom that each pixel shows, -1 where there is none."""
    model = copy.copy(model)
    model.vis.quality.offsamples = 0
    model.vis.quality.numslices = model.vis.quality.numstacks = 128  # round things are meshes there
    with mujoco.Renderer(model, side, side) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, camera)
        ids, kinds = np.moveaxis(renderer.render(), -1, 0)
    return np.where(kinds == mujoco.mjtObj.mjOBJ_GEOM, ids, -1)
