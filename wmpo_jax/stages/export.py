"""What a run has trained, as checkpoints that `python -m wmpo_jax.convert export` takes to PyTorch.

Only networks that began with an imported checkpoint can go back: its names, its unused tensors and
its files make the original's form. The autoencoder stays as it was imported, and the reward model's
head belongs to the run's task.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from wmpo_jax.agents.policy import Adapted
from wmpo_jax.assembly import networks
from wmpo_jax.conversion.store import Store, save_trained
from wmpo_jax.models.layers import unstack_layers
from wmpo_jax.models.vla.lora import fold_lora
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.stages.context import RunContext

MAKERS: dict[str, Callable[[RunContext, Store], nnx.State]] = {
    "policy": lambda context, origin: _policy(context, origin),
    "world_model": lambda context, _: context.trained.world_model_params(),
}


def run(context: RunContext) -> dict[str, Any]:
    """Writes <workdir>/export/policy and world_model, those of them that have an origin.

    Raises:
      UserError: nothing was imported, or a network has not been trained yet.
    """
    written = {}
    for role, params in MAKERS.items():
        origin = networks.checkpoint(context.config, role)
        if origin is None:
            continue
        target = context.workdir.path / "export" / role
        if not target.exists():
            save_trained(target, origin, params(context, origin))
        written[role] = str(target)
    if not written:
        raise UserError(
            "No network of this run began with an imported checkpoint, so there is no form to "
            "export to: give one under config.networks.weights (python -m wmpo_jax.convert import)."
        )
    return written


def _policy(context: RunContext, origin: Store) -> nnx.State:
    """The improved one, or the imitated one where stage improve has not run.

    Adapters are folded in and layers written out, as in `Store.params`.
    """
    policy, last = context.trained.policy, context.last_round
    improved = context.workdir.done(last.named("improve"))
    params = last.trained.policy_params("improve" if improved else "sft")
    written_out = nnx.from_flat_state(origin.kind.abstract(origin.config)[1])

    @jax.jit
    def plain(params: Adapted | nnx.State) -> nnx.State:
        if isinstance(params, Adapted):
            network = nnx.merge(policy.graphdef, *params)
            fold_lora(network)
            params = nnx.state(network)
        return unstack_layers(params, written_out, "blocks")

    return plain(params)
