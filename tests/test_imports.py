"""The layers: imports point down only, and heavy packages are imported where they are used."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "wmpo_jax"
LAYERS = [
    {"runtime"},
    {"models"},
    {"algorithm", "envs", "data"},
    {"agents"},
    {"training", "conversion", "report"},
    {"assembly"},
    {"planning", "drive", "serving", "envs.imagined"},
    {"benchmark"},
    {"stages"},
    {"main", "plan", "convert", "play", "serve", "benchmark"},
]
LAYER_OF = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}
# Where each heavy package may be imported.
HEAVY = {
    "torch": {"conversion", "benchmark.peers"},
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
    "websockets": {"serving", "serve", "agents.remote_policy"},
    "gymnasium": {"envs.imagined"},
    "huggingface_hub": {"runtime.hub"},
    "mujoco_playground": {"envs.playground"},
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


def _layer(module: str) -> int:
    """-1 for the package itself; a module with a layer of its own counts before its package."""
    parts = module.split(".")[1:]
    known = [".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in LAYER_OF]
    return LAYER_OF[known[0]] if parts else -1


def test_imports_point_down() -> None:
    ours = [(module, name) for module, name in EDGES if name.split(".")[0] == "wmpo_jax"]
    assert len(ours) > 20
    assert [f"{m} imports {name}" for m, name in ours if _layer(name) > _layer(m)] == []


def test_stages_are_imported_by_main_alone() -> None:
    users = {m for m, name in EDGES if name.startswith("wmpo_jax.stages")}
    assert {m for m in users if not m.startswith("wmpo_jax.stages")} == {"wmpo_jax.main"}


def test_the_context_of_a_run_is_seen_by_stages_alone() -> None:
    """Everything below takes what it needs of it."""
    found = []
    for module, path in SOURCES.items():
        if module.startswith("wmpo_jax.stages"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.arg in ("setting", "run_context"):
                found.append(f"{module}: {node.arg}")
            if isinstance(node, ast.Name) and node.id == "RunContext":
                found.append(f"{module}: RunContext")
    assert found == []


def test_no_circles() -> None:
    graph = {module: names & SOURCES.keys() for module, names in IMPORTS.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    strays = [
        f"{module} imports {name}"
        for module, name in EDGES
        for heavy in HEAVY.keys() & {name.split(".")[0]}
        if not any(module.startswith(f"wmpo_jax.{part}") for part in HEAVY[heavy])
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
