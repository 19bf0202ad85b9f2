"""Tests run on the CPU: libtpu, which plans are compiled with, would go looking for chips."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
