"""Packages that only some programs need, imported when one of them begins."""

import importlib
from typing import Any

from wmpo_jax.runtime.errors import UserError


def require(module: str, extra: str, purpose: str) -> Any:
    """Imports `module`; UserError naming the extra that brings it when it is not installed.

    Args:
      purpose: what needs it, as the beginning of a sentence ("Serving a policy").
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{purpose} needs {error.name}: pip install 'wmpo_jax[{extra}]'."
        ) from error
