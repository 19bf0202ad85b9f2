"""The mesh fits the devices or says why not; on two pretend devices batches are split."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import make_mesh, replicate, spread_whole


def config(**sizes: int) -> ConfigDict:
    return ConfigDict({"mesh": {"data": -1, "fsdp": 1, "tensor": 1} | sizes})


def test_one_device() -> None:
    mesh = make_mesh(config())
    assert mesh.shape == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
    batch = spread_whole(mesh, {"x": np.arange(8)})
    assert np.array_equal(batch["x"], np.arange(8))
    assert replicate(mesh, jax.random.key(0)).dtype == jax.random.key(0).dtype


@pytest.mark.parametrize("sizes", [{"fsdp": 64}, {"data": 3, "tensor": 64}, {"fsdp": -1}])
def test_sizes_that_do_not_fit(sizes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"config.mesh \(.*\) does not fit"):
        make_mesh(config(**sizes))


TWO_DEVICES = """
import numpy as np
from wmpo_jax.runtime import environment
environment.prepare(cpu_devices=2)
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import host_rows, make_mesh, spread_padded, spread_whole
from wmpo_jax.runtime.sharding import apart
from tests.runtime.test_mesh import config
mesh = make_mesh(config())
batch = spread_whole(mesh, np.zeros((6, 3)))
assert [shard.data.shape for shard in batch.addressable_shards] == [(3, 3), (3, 3)]
assert spread_padded(mesh, np.arange(5)).tolist() == [0, 1, 2, 3, 4, 4]
assert host_rows(mesh, 6).tolist() == [0, 1, 2, 3, 4, 5]
# Each device adds up its own three rows.
assert apart(mesh, lambda x: x.cumsum())(np.arange(6)).tolist() == [0, 1, 3, 3, 7, 12]
try:
    spread_whole(mesh, np.zeros((5, 3)))
except UserError as error:
    print(error)
"""


def test_two_pretend_devices() -> None:
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True
    )
    assert "A batch of 5 cannot be spread over data x fsdp = 2" in done.stdout, done.stderr
