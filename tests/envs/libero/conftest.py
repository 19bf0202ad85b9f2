"""One pool for all tests of LIBERO: starting it is what costs."""

import pytest

from wmpo_jax.envs.libero.benchmark import make_protocol
from wmpo_jax.envs.robosuite.pool import WorkerPool


@pytest.fixture(scope="session")
def pool():
    """Two workers, the first two tasks of libero_spatial, 64 pixels."""
    pool = WorkerPool(make_protocol("libero_spatial", tasks=(0, 1), image_size=64), workers=2)
    yield pool
    pool.close()
