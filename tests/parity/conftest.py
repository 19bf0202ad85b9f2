"""Full float32 products on our side, one thread and no gradients on theirs."""

import jax
import pytest
import torch

torch.set_num_threads(1)  # small matrices: more threads only wait for each other


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield
