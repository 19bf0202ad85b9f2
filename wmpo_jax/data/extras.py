"""Libraries that only some datasets need, imported when such a dataset is opened."""

import importlib
from typing import Any

from wmpo_jax.runtime.errors import UserError


def require(module: str, extra: str = "data") -> Any:
    """Imports `module`; UserError naming the extra that brings it when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"This dataset needs {error.name}: pip install 'wmpo_jax[{extra}]'."
        ) from error
