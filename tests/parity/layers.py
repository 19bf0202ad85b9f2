"""Small helpers of the parity tests: random weights for both sides, and what each layer gave."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from flax import nnx

from tests.conversion import synthetic
from wmpo_jax.conversion import from_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.conversion.torch_files import to_torch


def both(kind: str, seed: int, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Our network and the same random weights as torch tensors under their original names."""
    config = dataclasses.replace(synthetic.CONFIGS[kind], **changes)
    weights = synthetic.tensors(kind, seed=seed, config=config)
    graphdef, _ = KINDS[kind].abstract(config)
    network = nnx.merge(graphdef, from_state_dict(kind, weights, config))
    return network, {name: to_torch(array) for name, array in weights.items()}


@contextlib.contextmanager
def recorded(modules: Iterable[torch.nn.Module]) -> Iterator[list[np.ndarray]]:
    """What each of the modules returns, in the order they are run."""
    outputs: list[np.ndarray] = []

    def keep(_, __, output):
        outputs.append((output[0] if isinstance(output, tuple) else output).numpy().copy())

    hooks = [module.register_forward_hook(keep) for module in modules]
    yield outputs
    for hook in hooks:
        hook.remove()


def assert_close(ours, theirs: np.ndarray, tolerance: float = 2e-5) -> None:
    """max |difference| <= tolerance x max |theirs|, which also says that nothing is all zero."""
    ours, size = np.asarray(ours), np.abs(theirs).max()
    assert ours.shape == theirs.shape and size > 0.1
    assert np.abs(ours - theirs).max() <= tolerance * size
