"""Small pieces, all of them used: what a reader of an evening may rely on."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "wmpo_jax").rglob("*.py"))
READERS = [
    *SOURCES,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_FUNCTION, MAX_FILE = 60, 500  # lines
# Called by others under these names: http.server's handlers, pickle's look-up.
CALLED_FROM_OUTSIDE = {"do_GET", "do_POST", "log_message", "handle_error", "find_class"}


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pieces_are_small(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE
    sizes = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION} == {}


def test_no_function_or_class_is_there_for_nobody():
    """Each name is written at least once outside its own definition; a decorator calls its own."""
    words: dict[str, int] = {}
    for path in READERS:
        for word in re.findall(r"\w+", path.read_text()):
            words[word] = words.get(word, 0) + 1
    defined: dict[str, int] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.decorator_list:
                defined[node.name] = defined.get(node.name, 0) + 1
    lonely = {name for name, count in defined.items() if words[name] <= count}
    assert {n for n in lonely if not n.startswith("__")} - CALLED_FROM_OUTSIDE == set()
