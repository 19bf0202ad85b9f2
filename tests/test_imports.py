"""The house keeps its floors: imports point down only, and heavy packages stay in their rooms."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "wmpo_jax"
FLOORS = [
    {"runtime"},
    {"models"},
    {"algorithm", "envs", "data"},
    {"stages", "report", "conversion", "planning"},
    {"drive"},
    {"main", "plan", "convert", "play"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Where each heavy package may be imported.
HEAVY = {
    "torch": {"conversion"},
    "transformers": {"conversion"},
    "diffusers": {"conversion"},
    "tensorflow": {"data.rlds"},
    "tensorflow_datasets": {"data.rlds"},
    "clu": {"runtime.metrics"},
    "grain": {"data.loading"},
    "av": {"data.video"},
    "h5py": {"data.hdf5"},
    "pyarrow": {"data.lerobot"},
    "array_record": {"data.rlds"},
    "robosuite": {"envs.robosuite"},
    "libero": {"envs.libero"},
}


def _module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imported_by(path: Path) -> set[str]:
    """Modules that a file imports; `from package import thing` counts as the thing if it is one.

    `require("module")` of `data.extras` imports too.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in SOURCES else node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            names.add(ast.literal_eval(node.args[0]))
    return names


IMPORTS = {module: _imported_by(path) for module, path in SOURCES.items()}
EDGES = [(module, name) for module, names in IMPORTS.items() for name in names]


def _floor(module: str) -> int:
    """-1 for the package itself."""
    return FLOOR_OF[module.split(".")[1]] if "." in module else -1


def test_imports_point_down() -> None:
    ours = [(module, name) for module, name in EDGES if name.split(".")[0] == "wmpo_jax"]
    assert len(ours) > 20
    assert [f"{m} imports {name}" for m, name in ours if _floor(name) > _floor(m)] == []


def test_no_circles() -> None:
    graph = {module: names & SOURCES.keys() for module, names in IMPORTS.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_heavy_packages_stay_in_their_rooms() -> None:
    strays = [
        f"{module} imports {name}"
        for module, name in EDGES
        for heavy in HEAVY.keys() & {name.split(".")[0]}
        if not any(module.startswith(f"wmpo_jax.{room}") for room in HEAVY[heavy])
    ]
    assert strays == []


def test_the_package_is_imported_without_them() -> None:
    modules = "wmpo_jax.stages, wmpo_jax.conversion, wmpo_jax.data.inspection"
    program = f"import sys, {modules}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert HEAVY.keys() & set(result.stdout.split()) == set()


def test_a_first_import_prints_nothing():
    """MJX would tell everyone that Warp is not installed."""
    command = [sys.executable, "-c", "import wmpo_jax.envs.tabletop.env"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (result.stdout, result.stderr) == ("", "")
