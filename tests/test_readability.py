"""Small pieces, all of them used by the program itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "wmpo_jax").rglob("*.py"))
FOLDERS = ("benchmarks", "docs", "colab", "examples", "configs")
PROGRAMS = [*SOURCES, *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
# What is named on a page or in a notebook is part of what users call.
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "colab").rglob("*.ipynb"), ROOT / "README.md"]
MAX_FUNCTION, MAX_FILE = 60, 500  # lines
# Called by others under these names: handlers of http.server, socketserver, logging and pickle.
CALLED_FROM_OUTSIDE = {
    *("do_GET", "do_POST", "log_message", "handle_error", "emit", "find_class"),
    *("process_request", "service_actions"),
}


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pieces_are_small(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE
    sizes = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION} == {}


def names_used(path: Path) -> Iterator[str]:
    """Names, attributes and strings (`getattr`, registries); imports do not count."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_function_or_class_is_there_for_tests_alone():
    """Decorators that are called (validators, fixtures) register what they decorate."""
    used = {name for path in PROGRAMS for name in names_used(path)} | CALLED_FROM_OUTSIDE
    used |= {word for path in PAGES for word in re.findall(r"\w+", path.read_text())}
    unused = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("__")
        and not any(isinstance(decorator, ast.Call) for decorator in node.decorator_list)
        and node.name not in used
    ]
    assert unused == []
