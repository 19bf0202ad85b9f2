"""The one supervised training loop: resume, step, show, save, stop on request."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx, struct
from jax.sharding import Mesh

from wmpo_jax.data.loading import WindowLoader
from wmpo_jax.runtime import environment, preemption, sharding
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import batch_sharding, replicate, spread_part
from wmpo_jax.runtime.progress import progress
from wmpo_jax.stages.setting import Setting

LOG_EVERY = 20


class TrainState(struct.PyTreeNode):
    """Everything a training run is: saved whole, so that a resumed run is the same run.

    Attributes:
      step: int32, steps taken; also the position in the data, which is drawn from fold_in(step).
      params: trained pytree.
      opt_state: of the optax transformation.
      average: exponential moving average of params, or None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any


@dataclass(frozen=True)
class Stream:
    """Data that do not fit into memory: every step is given the next batch of a loader.

    Attributes:
      constants: what every step is given beside its batch, such as a frozen network.
    """

    loader: WindowLoader
    constants: Mapping[str, Any] = field(default_factory=dict)


class Adapted(NamedTuple):
    """A policy's parameters when adapters (LoRA) are trained and the rest of it is not."""

    adapters: Any
    frozen: Any


def trained_of(params: Any) -> Any:
    """The part of a policy's parameters that training changes: all of them, or the adapters."""
    return params.adapters if isinstance(params, Adapted) else params


def joined(trained: Any, frozen: Any) -> Any:
    """A policy's parameters; `frozen` is None where all of them are trained."""
    return trained if frozen is None else Adapted(trained, frozen)


def frozen_of(params: Any) -> Any:
    """The part that training leaves alone; None where there is none."""
    return params.frozen if isinstance(params, Adapted) else None


# (state, data, frozen or nothing) -> (state, metrics)
StepFunction = Callable[..., tuple[TrainState, Mapping[str, jax.Array]]]


def optimizer(name: str, section: Any, steps: int, stacked: str) -> Any:
    """What `section.optimizer` of stage `name` asks for; `stacked` as for `muon`."""
    if section.optimizer == "muon":
        return muon(section.learning_rate, steps, stacked)
    if section.optimizer == "adamw":
        return adamw(section.learning_rate, steps, section.weight_decay)
    raise UserError(f"{name}.optimizer is {section.optimizer!r}; change it to adamw or muon.")


def adamw(learning_rate: float, steps: int, weight_decay: float = 0.0) -> Any:
    """AdamW, gradients clipped at norm 1, short warm-up and cosine decay to a tenth."""
    schedule = _warmup_cosine(learning_rate, steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay)
    )


def muon(learning_rate: float, steps: int, stacked: str) -> Any:
    """Muon for the matrices, Adam for the rest; clipping and schedule as in `adamw`.

    Updates have the size of Adam's, so that one learning rate serves both.

    Args:
      stacked: name of the part whose arrays hold one layer per entry of their leading axis. Layers
        are orthogonalized one by one (XLA:CPU is slow at batches of small matrices).
    """
    inner = optax.contrib.muon(_warmup_cosine(learning_rate, steps), consistent_rms=0.2)

    def layers(tree: Any) -> Any:
        def split(path: Any, leaf: jax.Array) -> Any:
            return tuple(leaf) if stacked in jax.tree_util.keystr(path) else leaf

        return jax.tree_util.tree_map_with_path(split, tree)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        split, state = inner.update(layers(updates), state, layers(params))
        restored = [
            jnp.stack(leaf) if isinstance(leaf, tuple) else leaf
            for leaf in jax.tree.leaves(split, is_leaf=lambda node: isinstance(node, tuple))
        ]
        return jax.tree.unflatten(jax.tree.structure(updates), restored), state

    layerwise = optax.GradientTransformation(lambda params: inner.init(layers(params)), update)
    return optax.chain(optax.clip_by_global_norm(1.0), layerwise)


def _warmup_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    steps = max(steps, 1)  # an imported network may be taken as it is
    return optax.warmup_cosine_decay_schedule(
        0.1 * learning_rate, learning_rate, min(50, steps // 4), steps, 0.1 * learning_rate
    )


def create(
    mesh: Mesh, build: Callable[[], nnx.Module], chosen: Any = ..., dtype: Any = jnp.float32
) -> tuple[Any, Any]:
    """A network with fresh parameters, each made in its shards: (graphdef, params).

    Args:
      chosen: NNX's filter of the parameters that are wanted.
      dtype: of the parameters.
    """
    graphdef, params = abstract(mesh, build, chosen)
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    # It runs once: on a CPU optimizing it would take five times as long as not.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    make = jax.jit(
        lambda: jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(build(), chosen)),
        out_shardings=places,
        compiler_options=quick if _on_cpu(mesh) else None,
    )
    return graphdef, make()


def abstract(mesh: Mesh, build: Callable[[], nnx.Module], chosen: Any = ...) -> tuple[Any, Any]:
    """As `create`, but shapes and shardings alone: a template to restore into."""
    graphdef, params = nnx.split(nnx.eval_shape(build))
    return graphdef, sharding.abstract(mesh, nnx.filter_state(params, chosen))


def initial_state(mesh: Mesh, params: Any, optimizer: Any, averaged: bool = False) -> TrainState:
    """Step 0 from a copy of `params` (steps donate their state), all of it made in its shards."""
    make = functools.partial(_initial_state, optimizer=optimizer, averaged=averaged)
    return make_sharded(mesh, make, params)


def state_template(mesh: Mesh, params: Any, optimizer: Any, averaged: bool = False) -> TrainState:
    """Shapes and shardings of `initial_state`; `params` may be shapes too."""
    make = functools.partial(_initial_state, optimizer=optimizer, averaged=averaged)
    return sharding.abstract(mesh, jax.eval_shape(make, params))


def make_sharded(mesh: Mesh, make: Callable[..., Any], *inputs: Any) -> Any:
    """`make(*inputs)` with every leaf of the result made where the sharding table wants it."""
    places = sharding.shardings(mesh, jax.eval_shape(make, *inputs))
    return jax.jit(make, out_shardings=places)(*inputs)


def _initial_state(params: Any, optimizer: Any, averaged: bool) -> TrainState:
    average = jax.tree.map(jnp.copy, params) if averaged else None
    return TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params), average)


def make_step(
    mesh: Mesh,
    loss_fn: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]],
    optimizer: Any,
    key: jax.Array,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> StepFunction:
    """A jitted step of `loss_fn(params, data, key, step) -> (loss, metrics)`.

    What is `frozen` (None, or the policy beside its adapters) reaches the loss as part of `params`.
    The key of a step is `fold_in(key, step)`: batches and noise depend on nothing else. With
    `accumulate` = M the gradient is the mean over M batches, drawn one after the other.
    """

    def step(
        state: TrainState, data: Any, frozen: Any = None
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        def loss(params: Any, key: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            return loss_fn(joined(params, frozen), data, key, state.step)

        step_key = jax.random.fold_in(key, state.step)
        with sharding.over(mesh):
            metrics, grads = _mean_gradient(loss, accumulate, state.params, step_key)
        grads = sharding.pin(mesh, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(params, average, 1.0 - decay)
        new = TrainState(state.step + 1, params, opt_state, average)
        return sharding.pin(mesh, new), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=_step_options(mesh))


def _step_options(mesh: Mesh) -> dict[str, bool] | None:
    """XLA:CPU's default for fused loops, which runtime.environment turns off for MJX's sake."""
    if not _on_cpu(mesh) or not environment.has_fusion_emitters_flag():
        return None
    return {"xla_cpu_use_fusion_emitters": True}


def _on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _mean_gradient(
    loss_fn: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]],
    accumulate: int,
    params: Any,
    key: jax.Array,
) -> tuple[Mapping[str, jax.Array], Any]:
    """(metrics with the loss among them, gradients), means over `accumulate` batches."""

    def one(key: jax.Array) -> tuple[Mapping[str, jax.Array], Any]:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, key)
        return {**metrics, "loss": loss}, grads

    if accumulate == 1:
        return one(key)

    def add(total: Any, key: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda t, x: t + x / accumulate, total, one(key)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, key))
    return jax.lax.scan(add, zeros, jax.random.split(key, accumulate))[0]


def spread(mesh: Mesh, batch: Any) -> Any:
    """Inside jit: splits the leading axis of a batch over the data axes of the mesh."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def fit(
    name: str,
    state: TrainState,
    step_fn: StepFunction,
    data: Any,
    steps: int,
    save_every: int,
    setting: Setting,
    frozen: Any = None,
) -> TrainState:
    """Trains until `steps`, from the newest checkpoint of `name` if there is one.

    With 0 steps the state is saved as it is: an imported network that needs no training.

    Args:
      state: of `initial_state`; it is used up, as steps donate it.
      data: arrays that `step_fn` draws its batches from, small enough for a copy on every device;
        or a `Stream` of batches.
      frozen: given to every step as it is; not part of checkpoints.

    Raises:
      Preempted: after saving, when SIGTERM or Ctrl-C asked for it.
      UserError: the loss is not finite.
    """
    checkpoints = Checkpoints(setting.workdir.checkpoints(name))
    if checkpoints.latest_step() is not None:
        state = _joined_state(*checkpoints.restore(*_split_state(state)))
    start = int(state.step)
    if steps == 0 and checkpoints.latest_step() is None:
        checkpoints.save(0, *_split_state(state))
    batches = _batches(setting.mesh, data, start)
    with setting.metrics(name, start) as writer, progress(steps, start, name) as bar:
        for step in range(start + 1, steps + 1):
            state, metrics = step_fn(state, next(batches), frozen)
            if step % LOG_EVERY == 0 or step == steps:
                _check_finite(name, step, float(metrics["loss"]))
                writer.write(step, metrics)
                bar.headline(loss=float(metrics["loss"]))
            bar.advance()
            leaving = preemption.stop_requested()
            if step % save_every == 0 or step == steps or leaving:
                checkpoints.save(step, *_split_state(state))
            if leaving:
                checkpoints.close()
                raise preemption.stopped(name, step)
    checkpoints.close()
    return state


def _split_state(state: TrainState) -> tuple[Any, TrainState]:
    """(what inference uses, everything else)."""
    if state.average is None:
        return state.params, state.replace(params=None)
    return state.average, state.replace(average=None)


def _joined_state(params: Any, rest: TrainState) -> TrainState:
    return rest.replace(params=params) if rest.params is None else rest.replace(average=params)


def _batches(mesh: Mesh, data: Any, start: int) -> Iterator[Any]:
    """What each step from `start` on is given; the same arrays again and again, or a stream."""
    if not isinstance(data, Stream):
        yield from itertools.repeat(replicate(mesh, data))
        return
    constants = replicate(mesh, dict(data.constants))
    for batch in data.loader.iterate(start):
        yield {**spread_part(mesh, batch, data.loader.batch_size), **constants}


def load_params(setting: Setting, name: str, template: TrainState) -> Any:
    """The params (or their average, if one was kept) in the newest checkpoint of `name`."""
    return Checkpoints(setting.workdir.checkpoints(name)).restore_params(_split_state(template)[0])


def _check_finite(name: str, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss of stage {name} is {loss} at step {step}: lower {name}.learning_rate in "
            "the config; its last checkpoint is from before this."
        )
