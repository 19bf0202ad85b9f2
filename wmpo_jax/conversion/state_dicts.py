"""State dicts in memory: the tables and checks of `convert`, without any file."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.conversion.importing import check_tensors, lazy_params
from wmpo_jax.conversion.kinds import KINDS, Entry
from wmpo_jax.conversion.store import leaf_name


class InMemory:
    """Arrays by original name, in the form that `importing` reads; `infos` are the arrays."""

    source = "This state dict"

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.infos = tensors

    def read(self, name: str) -> np.ndarray:
        return self.infos[name]


def from_state_dict(kind: str, tensors: Mapping[str, np.ndarray], config) -> nnx.State:
    """Parameters of the network of `config` from an original state dict.

    Args:
      kind: "policy", "world_model", "autoencoder" or "reward".
      tensors: original names and layouts, bfloat16, float16 or float32; tensors that the network
        never reads may be there or not.
      config: of the network, which need not be a released size.

    Returns:
      float32, the `params` of `graphdef, params = nnx.split(network, nnx.Param)`.

    Raises:
      UserError: names, shapes or dtypes do not fit `config`; the differences are listed.
    """
    family, weights = KINDS[kind], InMemory(tensors)
    check_tensors(family, config, weights)
    _, variables = family.abstract(config)
    arrays = lazy_params(weights, family, config)
    filled = {
        path: variable.replace(jnp.asarray(arrays[leaf_name(path)].read(), jnp.float32))
        for path, variable in variables.items()
    }
    return nnx.from_flat_state(filled)


def to_state_dict(kind: str, params: nnx.State, config) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`, for anything shaped like the parameters, gradients too.

    Arrays keep their dtype. Tensors that the network never reads are not among them.
    """
    flat = dict(nnx.to_flat_state(params))

    def original(entry: Entry) -> np.ndarray:
        ours = np.asarray(flat[entry.path][...])
        return np.ascontiguousarray(
            entry.theirs(ours if entry.index is None else ours[entry.index])
        )

    return {entry.name: original(entry) for entry in KINDS[kind].entries(config)}
