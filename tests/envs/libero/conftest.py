"""One pool for all tests of LIBERO: starting it is what costs."""

import pytest

from wmpo_jax.envs.libero.pool import WorkerPool
from wmpo_jax.envs.libero.protocol import make_protocol


@pytest.fixture(scope="session")
def pool():
    """Two workers, the first two tasks of libero_spatial, 64 pixels."""
    pool = WorkerPool(make_protocol("libero_spatial", tasks=(0, 1), image_size=64), workers=2)
    yield pool
    pool.close()
