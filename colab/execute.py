"""Runs notebooks from top to bottom in a fresh kernel and stores what they show.

    python colab/execute.py colab/quickstart.ipynb               # as a reader would: minutes
    python colab/execute.py --size=smoke colab/*.ipynb           # every cell, too short to learn
    python colab/execute.py --clean colab/*.ipynb                # runs nothing; what git should see

`--size=smoke` writes nothing. Needs nbclient and ipykernel (`pip install -e '.[dev]'`).
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
SIZES = ("full", "smoke")
CELL_SECONDS = 3600  # of one cell, on a busy machine


def execute(path: Path, size: str) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    before = os.environ.get("WMPO_NOTEBOOK_SIZE")
    os.environ["WMPO_NOTEBOOK_SIZE"] = size  # the kernel inherits it
    try:
        place = {"metadata": {"path": str(ROOT)}}
        NotebookClient(notebook, timeout=CELL_SECONDS, resources=place).execute()
    finally:
        if before is None:
            del os.environ["WMPO_NOTEBOOK_SIZE"]
        else:
            os.environ["WMPO_NOTEBOOK_SIZE"] = before
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times and versions of the machine, so that git shows what a person changed.

    Lines written to stderr go too: they are progress bars and warnings of this very run. Of a
    picture in two encodings one stays.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for out in cell.outputs:
                if "image/png" in out.get("data", {}):
                    out.data.pop("image/jpeg", None)
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--clean", action="store_true", help="run nothing")
    flags = parser.parse_args()
    for path in flags.notebooks:
        if flags.clean:
            notebook = cleaned(nbformat.read(path, as_version=4))
        else:
            notebook = execute(path, flags.size)
        if flags.clean or flags.size == "full":
            nbformat.write(notebook, path)
        print(f"{path}: as it should be", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
