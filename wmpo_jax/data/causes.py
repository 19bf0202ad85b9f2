"""Why a file of a dataset cannot be read, in words that say what to do about it."""

from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"


def unreadable(path: Path, error: Exception, verb: str = "read") -> str:
    """A clause without its subject, "is missing", about an exception that reading `path` raised."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if is_pointer(path):
        return (
            "is a Git LFS pointer, not the file itself (run git lfs pull in the dataset's folder)"
        )
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    reason = text.splitlines()[0].replace(str(path), path.name).rstrip(".")
    return f"cannot be {verb} ({reason})"


def is_pointer(path: Path) -> bool:
    """Whether a clone without Git LFS has left a few lines of text in the place of a file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False
