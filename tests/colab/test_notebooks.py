"""The notebooks run from top to bottom at smoke size, and are stored as a reader likes them."""

import base64
import shutil

import nbformat
import pytest

from colab.execute import ROOT, cleaned, execute

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
MAX_OUTPUT = 2**20  # bytes of one stored picture


def read(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    """All PNGs that it shows, in base64."""
    outputs = [out for cell in code(notebook) for out in cell.outputs]
    return [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]


def test_all_three_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["checkpoints", "quickstart", "world_model"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, smoke_run):
    """Every cell; stages find the workdir of a smoke run, where they have nothing left to do."""
    workdir = ROOT / "runs" / f"{path.stem}_smoke"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(smoke_run, workdir)
    assert pictures(execute(path, "smoke"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_small(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run colab/execute.py on it"
    outputs = [out for cell in code(notebook) for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error"]
    assert max(len(base64.b64decode(picture)) for picture in pictures(notebook)) < MAX_OUTPUT


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_the_machine_is_stored(path):
    assert read(path) == cleaned(read(path)), "run colab/execute.py --clean on it"


def test_all_install_in_the_same_way():
    assert len({code(read(path))[0].source for path in NOTEBOOKS}) == 1
