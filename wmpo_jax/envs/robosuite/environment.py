"""The Python environment of the simulators' processes, beside the one that trains.

    python -m wmpo_jax.envs.robosuite.environment         # makes it, from requirements.lock

robosuite and LIBERO are simulated with the MuJoCo that their policies were trained on; MJX, in the
main process, needs a newer one. The environment is `.venv-libero` beside the package, or what
WMPO_LIBERO_ENV names.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from wmpo_jax.runtime.errors import UserError

LOCK = Path(__file__).with_name("requirements.lock")
VARIABLE = "WMPO_LIBERO_ENV"
_ROOT = Path(__file__).parents[3]  # holds the package
# The package is looked for last: beside an installed one is a MuJoCo that is not meant.
_RUN = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); module = sys.argv.pop(1); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def folder() -> Path:
    """Where the environment is, or will be."""
    return Path(os.environ.get(VARIABLE) or _ROOT / ".venv-libero").absolute()


def interpreter() -> Path:
    """The environment's Python.

    Raises:
      UserError: there is none.
    """
    found = folder() / "bin" / "python"
    if not os.path.isfile(found):
        raise UserError(
            f"LIBERO, robosuite and their MuJoCo are not installed ({found} is missing): "
            f"{set_up_command()} installs them, or set {VARIABLE} to the folder of an "
            "environment that has them."
        )
    return found


def set_up_command() -> str:
    """What makes the environment, as a user types it."""
    return f"{sys.executable} -m wmpo_jax.envs.robosuite.environment"


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module of this package, or one beside it, in the environment."""
    return [str(interpreter()), "-P", "-c", _RUN, str(_ROOT), module, *arguments]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions of what decides about physics and pixels.

    Raises:
      UserError: the environment, or one of the packages in it, is missing.
    """
    interpreter()
    paths = [str(path) for path in folder().glob("lib*/python3*/site-packages")]
    # Without its filter, which does not find names with dashes.
    there = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=paths)}
    missing = [name for name in packages if name not in there]
    if missing:
        raise UserError(
            f"{folder()} has no {', '.join(missing)}: {set_up_command()} installs what is missing."
        )
    return {name: there[name] for name in packages}


def cache() -> Path:
    """A folder for what the simulators keep between runs, of a place that can be written."""
    candidates = []
    if os.environ.get("XDG_CACHE_HOME"):
        candidates.append(Path(os.environ["XDG_CACHE_HOME"]))
    home = os.path.expanduser("~")  # stays "~" where there is neither HOME nor a user
    if home != "~":
        candidates.append(Path(home, ".cache"))
    candidates.append(Path(tempfile.gettempdir(), f"cache-{os.getuid()}"))
    for place in candidates:
        try:
            for name in ("libero", "numba"):
                (place / "wmpo_jax" / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            failure = error
            continue
        if os.access(place / "wmpo_jax" / "numba", os.W_OK):
            return place / "wmpo_jax"
        failure = PermissionError("not writable")
    raise UserError(
        f"No folder can be written for the simulators' caches ({failure}): set XDG_CACHE_HOME to "
        "one that can."
    )


def variables(renderer: str = "egl") -> dict[str, str]:
    """Environment variables of a process that simulates: renderer, one thread, caches.

    robosuite and MuJoCo read them when they are imported, so they must be there before. What leads
    Python elsewhere (PYTHONPATH, PYTHONHOME) is left out: another LIBERO or MuJoCo may be there.

    Args:
      renderer: "egl" or "osmesa".
    """
    ours = {name: v for name, v in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    place = cache()
    return (
        {"HOME": str(place)}
        | ours
        | {
            "MUJOCO_GL": renderer,
            "PYOPENGL_PLATFORM": renderer,
            "LIBERO_CONFIG_PATH": str(place / "libero"),  # holds no config.yaml: LIBERO's own paths
            "NUMBA_CACHE_DIR": str(place / "numba"),  # robosuite compiles its transforms
            "OMP_NUM_THREADS": "1",
        }
    )


def main(argv: Sequence[str]) -> int:
    """Makes the environment, or brings it to the lock's versions; returns the exit status."""
    if argv:
        print(__doc__, file=sys.stderr)
        return 2
    interrupts.raise_from_now_on()
    place = folder()
    try:
        if not (place / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-deps", "--requirement", str(LOCK)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"wmpo_jax: {place} could not be made ({error}); run it again once that is cured.",
            file=sys.stderr,
        )
        return 1
    print(f"wmpo_jax: LIBERO and robosuite are in {place}")
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
