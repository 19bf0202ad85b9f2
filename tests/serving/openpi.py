"""The Python environment of openpi's own client, beside the one that the tests run in.

python -m tests.serving.openpi         # makes it, from openpi.lock
"""

import subprocess
import sys
from pathlib import Path

from wmpo_jax.runtime.paths import cache_folder

LOCK = Path(__file__).with_name("openpi.lock")
FOLDER = cache_folder("openpi-client")
PYTHON = FOLDER / "bin" / "python"


def main() -> None:
    """Makes the environment, or brings it to the lock's versions."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--requirement", str(LOCK)], check=True)
    print(f"openpi-client is in {FOLDER}")


if __name__ == "__main__":
    main()
