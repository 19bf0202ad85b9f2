"""What golden tests prove is what stages run: the same objects, reached from a stage's `run`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# For each kind of golden file, the functions and classes that it proves.
PROVED = {
    "grpo": [
        "algorithm.grpo.policy_loss",
        "algorithm.grpo.clipped_objective",
        "algorithm.grpo.token_weights",
        "algorithm.grpo.token_mask",
        "algorithm.grpo.token_log_probs",
        "algorithm.grpo.group_advantages",
        "algorithm.grpo.mixed_groups",
    ],
    "rflow": [
        "agents.world_model.predict_chunk",
        "agents.world_model.window_loss",
        "algorithm.flow.euler_sample",
        "algorithm.flow.training_example",
        "algorithm.flow.flow_loss",
        "algorithm.flow.shift_timesteps",
        "algorithm.flow.transform_ratio",
    ],
    "stdit3": ["models.stdit.stdit.STDiT"],
    "policy": [
        "models.vla.policy.VLA",
        "models.vla.action_tokens.decode",
        "data.statistics.ActionStatistics",
        "algorithm.grpo.token_log_probs",
    ],
    "preproc": ["data.transforms.ImageTransform", "data.jpeg.jpeg_round_trip"],
    "vae": [
        "models.autoencoder_kl.model.AutoencoderKL",
        "models.autoencoder_kl.frames.decode_frames",
    ],
    "videomae": [
        "agents.reward_model.VideoRewardModel",
        "agents.reward_model.make_reward_model",
        "agents.reward_model.episode_outcomes",
        "algorithm.imagination.success_hits",
        "models.videomae.model.VideoMAE",
        "models.videomae.windows.score_windows",
    ],
}


class Module:
    """Names of a file, and what its top-level definitions use."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text())
        self.imports: dict[str, str] = {}
        self.bodies: dict[str, ast.AST] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.bodies[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.bodies |= {t.id: node for t in targets if isinstance(t, ast.Name)}


def modules() -> dict[str, Module]:
    found = {}
    for path in [*(ROOT / "wmpo_jax").rglob("*.py"), *(ROOT / "tests" / "golden").glob("*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(path)
    return found


MODULES = modules()


def resolve(dotted: str) -> str:
    """Follows what packages export: wmpo_jax.models.vla.VLA -> wmpo_jax.models.vla.policy.VLA."""
    module, _, name = dotted.rpartition(".")
    while module in MODULES and name in MODULES[module].imports:
        module, _, name = MODULES[module].imports[name].rpartition(".")
    return f"{module}.{name}"


def used(module: str, body: ast.AST) -> Iterator[str]:
    """What a definition names: its own module's definitions, and what it imports."""
    own = MODULES[module]
    for node in ast.walk(body):
        if isinstance(node, ast.Name) and node.id in own.imports:
            yield resolve(own.imports[node.id])
        elif isinstance(node, ast.Name) and node.id in own.bodies:
            yield f"{module}.{node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            imported = own.imports.get(node.value.id)
            if imported in MODULES:
                yield resolve(f"{imported}.{node.attr}")
            elif imported:
                yield resolve(imported)


def reached(starts: list[str]) -> set[str]:
    """All definitions that can be reached; of a class all methods count."""
    found, waiting = set(starts), list(starts)
    while waiting:
        module, _, name = waiting.pop().rpartition(".")
        body = MODULES[module].bodies.get(name) if module in MODULES else None
        new = set(used(module, body)) - found if body is not None else set()
        found |= new
        waiting += new
    return found


STAGES = reached(
    [
        f"{module}.{name}"
        for module, content in MODULES.items()
        if module.startswith("wmpo_jax.stages.")
        for name in ("run", "run_after")
        if name in content.bodies
    ]
)


@pytest.mark.parametrize("kind", PROVED)
def test_a_stage_reaches_what_the_golden_files_prove(kind):
    wanted = {f"wmpo_jax.{name}" for name in PROVED[kind]}
    assert wanted - STAGES == set()


@pytest.mark.parametrize("kind", PROVED)
def test_the_golden_test_reaches_it_too(kind):
    module = f"tests.golden.test_golden_{kind}"
    found = reached([f"{module}.{name}" for name in MODULES[module].bodies])
    assert {f"wmpo_jax.{name}" for name in PROVED[kind]} - found == set()


def test_a_loss_that_no_stage_calls_would_be_noticed():
    trainer = MODULES["wmpo_jax.training.grpo"].bodies["_loss"]
    names = set(used("wmpo_jax.training.grpo", trainer))
    assert "wmpo_jax.algorithm.grpo.policy_loss" in names
    assert "wmpo_jax.algorithm.grpo.mixed_groups" not in names
    assert "wmpo_jax.conversion.reference_models.policy_logits" not in STAGES
