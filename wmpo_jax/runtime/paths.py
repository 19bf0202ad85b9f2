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
      UserError: it is empty, there is no such user's home, it may not be looked at, or it has more
        characters than a path may have, or others.
    """
    if not str(path):
        raise UserError("An empty path names no file or folder: give a whole path.")
    try:
        found = Path(path).expanduser().resolve()
        found.exists()  # raises where that cannot be known
        return found
    except RuntimeError as error:  # no home folder, or a circle of links
        cure = "write it without ~" if str(path).startswith("~") else "give another"
        raise UserError(f"The path {path} leads nowhere ({error}): {cure}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"The path {str(path)[:200]!r} cannot be used ({reason}): give another."
        ) from error


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
