"""A finished run, opened from its workdir alone, as viewer and policy server begin."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wmpo_jax.assembly.environment import make_task, open_data, recorded_task
from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.runtime import mesh, validation
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json
from wmpo_jax.runtime.workdir import Workdir


def open_run(path: Path) -> TrainedRun:
    """The run in a workdir, on all devices of this machine; its parts are read when asked for.

    Raises:
      UserError: no workdir, or one that is damaged or of another version.
    """
    config = _stored_config(path / "config.json")
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    mixture = None if config.task else open_data(config)
    task = make_task(config) if mixture is None else recorded_task(config, mixture)
    return TrainedRun(config, Workdir(path, config), mesh.make_mesh(config), task)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around what reads the parts of a run: a file whose content makes no sense is a UserError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a file's content
        raise UserError(
            f"The results in {path} cannot be read ({type(error).__name__}: {str(error)[:200]}): "
            "they are damaged or of another version; repeat the stages that wrote them."
        ) from error


def _stored_config(stored: Path) -> Any:
    if not stored.is_file():
        raise UserError(f"{stored.parent} is no workdir of a run: it has no config.json.")
    content = load_json(stored)
    if not isinstance(content, dict):
        raise UserError(f"{stored} is damaged, it holds no fields: start a new workdir.")
    try:
        validation.check(content, "of it", stored=True)
    except UserError as error:
        raise UserError(
            f"{stored} does not fit this version of wmpo_jax ({str(error).rstrip('.')}): start a "
            "new workdir, or use the version that made it."
        ) from error
    return ConfigDict(content)
