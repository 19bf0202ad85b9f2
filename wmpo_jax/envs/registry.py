"""Which environments exist, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from wmpo_jax.envs.libero.benchmark import HORIZONS
from wmpo_jax.envs.libero.env import LiberoEnv
from wmpo_jax.envs.libero_mjx.env import LiberoMjxEnv
from wmpo_jax.envs.mimicgen.benchmark import TASKS
from wmpo_jax.envs.mimicgen.env import MimicgenEnv
from wmpo_jax.envs.playground.env import PREFIX, PlaygroundEnv
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.envs.tabletop.env import TabletopEnv
from wmpo_jax.envs.tabletop.tasks.lift import Lift
from wmpo_jax.envs.tabletop.tasks.press import Press
from wmpo_jax.envs.tabletop.tasks.push import Push
from wmpo_jax.envs.tabletop.tasks.stack import Stack
from wmpo_jax.runtime.errors import UserError

_FACTORIES: dict[str, Callable[[int], Environment]] = {
    "press": lambda image_size: TabletopEnv(Press(), image_size),
    "push": lambda image_size: TabletopEnv(Push(), image_size),
    "lift": lambda image_size: TabletopEnv(Lift(), image_size),
    "stack": lambda image_size: TabletopEnv(Stack(), image_size),
}

_LIBERO = {"c": LiberoEnv, "mjx": LiberoMjxEnv}  # by whose physics


def names() -> tuple[str, ...]:
    """Those that run inside jit."""
    return tuple(sorted(_FACTORIES))


def make_reality(
    name: str, image_size: int, options: Mapping[str, Any]
) -> Environment | HostEnvironment:
    """What config.task names: LIBERO, MimicGen, or else a name for `make`.

    Args:
      options: config.libero, config.mimicgen or config.playground (see `LiberoEnv`, `MimicgenEnv`,
        `PlaygroundEnv`).
    """
    if name in HORIZONS:
        return _LIBERO[_physics(options)](name, image_size, options)
    if name in TASKS:
        return MimicgenEnv(name, image_size, options)
    if name.startswith(PREFIX):
        return PlaygroundEnv(name, image_size, options)
    return make(name, image_size)


def _physics(options: Mapping[str, Any]) -> str:
    physics = options.get("physics", "c")
    if physics not in _LIBERO:
        raise UserError(f"libero.physics is {physics!r}: choose of {', '.join(_LIBERO)}.")
    return physics


def add(name: str, factory: Callable[[int], Environment]) -> None:
    """Makes an environment known to this process under `name`; the factory takes the image size.

    Raises:
      UserError: the name is taken.
    """
    if name in _FACTORIES:
        raise UserError(f"There is an environment called {name!r} already; choose another name.")
    _FACTORIES[name] = factory


def make(name: str, image_size: int = 32) -> Environment:
    """The environment called `name`, with frames of `image_size` x `image_size` pixels."""
    if name not in _FACTORIES:
        raise UserError(
            f"There is no environment called {name!r}; set config.task to one of "
            f"{', '.join([*names(), *HORIZONS, *TASKS])}, or playground/NAME."
        )
    return _FACTORIES[name](image_size)
