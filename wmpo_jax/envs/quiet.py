"""Imports MJX, whose first import prints lines about Warp, an engine that only some GPUs have."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import mujoco.mjx  # noqa: F401  # for what it prints
