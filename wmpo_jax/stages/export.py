"""What a run has trained, as checkpoints that `python -m wmpo_jax.convert export` takes to PyTorch.

Only networks that began with an imported checkpoint can go back: its names, its unused tensors and
its files make the original's form. The autoencoder stays as it was imported, and the classifier's
head belongs to the run's task.
"""

import time
from collections.abc import Callable

import jax
from flax import nnx

from wmpo_jax.conversion.store import Store, save_trained
from wmpo_jax.models.layers import unstack_layers
from wmpo_jax.models.vla.lora import fold_lora
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.stages import improve, networks, training, world_model
from wmpo_jax.stages.agents import policy_family
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy

MAKERS: dict[str, Callable[[Setting, Store], nnx.State]] = {
    "policy": lambda setting, origin: _policy(setting, origin),
    "world_model": lambda setting, _: world_model.load_params(setting)[1],
}


def run(setting: Setting) -> None:
    """Writes <workdir>/export/policy and world_model, those of them that have an origin.

    Raises:
      UserError: nothing was imported, or a network has not been trained yet.
    """
    started = time.monotonic()
    written = {}
    for role, params in MAKERS.items():
        origin = networks.checkpoint(setting.config, role)
        if origin is None:
            continue
        target = setting.workdir.path / "export" / role
        if not target.exists():
            save_trained(target, origin, params(setting, origin))
        written[role] = str(target)
    if not written:
        raise UserError(
            "No network of this run began with an imported checkpoint, so there is no form to "
            "export to: give one under config.networks.weights (python -m wmpo_jax.convert import)."
        )
    setting.workdir.mark_done("export", {"seconds": time.monotonic() - started, **written})


def _policy(setting: Setting, origin: Store) -> nnx.State:
    """The improved one, or the imitated one where stage improve has not run.

    Adapters are folded in and layers written out, as in `Store.params`.
    """
    family = policy_family(setting.config, setting.env)
    load = improve.load_policy if setting.workdir.done("improve") else load_base_policy
    params = load(setting, family)
    written_out = nnx.from_flat_state(origin.kind.abstract(origin.config)[1])

    @jax.jit
    def plain(params: training.Adapted | nnx.State) -> nnx.State:
        if isinstance(params, training.Adapted):
            network = nnx.merge(family.graphdef, *params)
            fold_lora(network)
            params = nnx.state(network)
        return unstack_layers(params, written_out, "blocks")

    return plain(params)
