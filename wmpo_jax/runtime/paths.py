"""Where files are: one way to read the paths that users give, and one place for caches.

JAX is not imported here: `main` reads its config before it may be.
"""

import os
import tempfile
from pathlib import Path

from wmpo_jax.runtime.errors import UserError


def resolve(path: str | Path) -> Path:
    """The absolute path of a command line's or a config's `path`; it need not exist.

    A leading ~ is the home folder, which the shell leaves alone behind `--flag=`.

    Raises:
      UserError: there is no such user's home, or the path has a character that no path may have.
    """
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # no home folder, or a circle of links
        raise UserError(f"The path {path} leads nowhere ({error}): write it without ~.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"The path {str(path)!r} cannot be used: {error}.") from error


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/wmpo_jax/<name>`, by default below ~/.cache; not created.

    A user without a home folder (a container's, perhaps) has it in the folder for temporary files.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification says to ignore relative ones
        try:
            base = Path("~/.cache").expanduser()
        except RuntimeError:
            base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return Path(base) / "wmpo_jax" / name
