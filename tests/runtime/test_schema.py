"""Every field of every config is in the table, and no value that the table refuses starts a run."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from ml_collections import ConfigDict

from wmpo_jax import main as program
from wmpo_jax import stages
from wmpo_jax.assembly.seeds import BLOCK, MAX_RUN_SEED
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import VLAConfig
from wmpo_jax.runtime import distributed, environment, mesh, preemption, schema, validation
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
LIBERO = tuple(
    f"configs/libero.py{v}" for v in ("", ":lora", ":mid", ":tiny", ":smoke", ":evaluate_imported")
)
TINY = ("configs/tiny.py", "configs/tiny.py:lift", "configs/tiny.py:smoke")
MIMICGEN = tuple(
    f"configs/{path.name}{variant}"
    for path in sorted(ROOT.glob("configs/mimicgen_*.py"))
    if path.stem != "mimicgen_base"
    for variant in ("", ":lora")
)
ALL = (*TINY, *LIBERO, *MIMICGEN)
# A config that reads another one and breaks one field of it; `repr` cannot write NaN and infinity.
TAMPERED = """
import copy
from tests.runtime.test_schema import base

def get_config(variant):
    spec, field, value = variant.split("|")
    config = copy.deepcopy(base(spec))
    value = eval(value, {"nan": float("nan"), "inf": float("inf")})
    holder, leaf = config, field.split(".")[-1]
    for name in field.split(".")[:-1]:
        holder = holder[name]
    with config.unlocked(), config.ignore_type():
        del holder[leaf]  # or True would become 1.0 here
        holder[leaf] = value
    return config
"""
HUGE = 10**15


def flat(section: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        below = isinstance(value, ConfigDict)
        found |= flat(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return found


base = functools.cache(load_config)  # read, never changed


@functools.cache
def holders() -> dict[str, str]:
    """For every field of the table a config that has it; fields that none has yet are left out."""
    where: dict[str, str] = {}
    for spec in ALL:
        where = dict.fromkeys(flat(load_config(spec)), spec) | where
    return where


@pytest.mark.parametrize("spec", ALL)
def test_every_config_of_the_project_is_valid_and_all_its_fields_are_in_the_table(spec):
    assert flat(load_config(spec)).keys() <= validation.fields().keys()


def test_a_field_that_the_table_does_not_have_is_refused():
    config = load_config("configs/tiny.py")
    with config.unlocked():
        config.sft.step = 3
    with pytest.raises(UserError, match=r"no field sft\.step \(did you mean steps\?\)"):
        validation.check(config.to_dict(), "here")


# Defaults that do not fit the rest of the config that has the field.
BESIDE_OTHERS = {
    "world_model.weight_decay": "needs world_model.weight_decay",  # of AdamW
    "world_model.fine": "world_model.copies = 5 needs world_model.fine",
    "world_model.train_times": "set world_model.train_times to sampled",
}


@pytest.mark.parametrize("field", sorted(holders()))
def test_a_field_may_be_missing_only_where_the_table_has_a_default(field):
    config = load_config(holders()[field]).to_dict()
    section: Any = config
    *path, leaf = field.split(".")
    for part in path:
        section = section[part]
    del section[leaf]
    model: Any = schema.Config
    for part in path:
        model = validation._plain(model.model_fields[part].annotation, [])[0]
    if model.model_fields[leaf].is_required():
        with pytest.raises(UserError, match=f"the field {field} is missing"):
            validation.check(config, "here")
    elif field in BESIDE_OTHERS:
        with pytest.raises(UserError, match=BESIDE_OTHERS[field]):
            validation.check(config, "here")
    else:
        validation.check(config, "here")


def candidates(kind: Any, value: Any) -> Iterator[Any]:
    """What a typing error, a wrong idea or an overflow may leave in a field."""
    yield from (None, [], {}, "", "x", -1, 0, True, 1.5, -1.5, HUGE, -HUGE, 1e300)
    yield from (float("nan"), float("inf"), float("-inf"), (), ("x",), (-1,), ((0, 0),), (1, 2, 3))
    if get_origin(kind) is Literal and isinstance(value, str):
        yield from (value.upper(), value[:-1], value + "s", "best")


def certainly_wrong(kind: Any, metadata: list[Any], value: Any) -> bool:
    """By the bare type and the bounds alone, without the code under test."""
    if get_origin(kind) is Literal:
        return value not in get_args(kind) or isinstance(value, bool)
    if get_origin(kind) is tuple:
        return not isinstance(value, tuple | list)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        if value != value or abs(value) == float("inf") or abs(value) >= HUGE:
            return True
    elif type(value) is not kind:
        return True
    bounds = [(getattr(m, side, None), side) for m in metadata for side in ("ge", "gt", "le", "lt")]
    tests = {
        "ge": lambda bound: value < bound,
        "gt": lambda bound: value <= bound,
        "le": lambda bound: value > bound,
        "lt": lambda bound: value >= bound,
    }
    return any(tests[side](bound) for bound, side in bounds if bound is not None)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs main on a config with one broken field; returns (status, stderr, workdir exists)."""
    monkeypatch.chdir(ROOT)
    tampered = tmp_path / "tampered.py"
    tampered.write_text(TAMPERED)
    monkeypatch.setattr(environment, "prepare", lambda cpu_devices: None)
    monkeypatch.setattr(preemption, "install", lambda: None)
    monkeypatch.setattr(distributed, "initialize", lambda cluster: None)
    monkeypatch.setattr(mesh, "make_mesh", lambda config: None)
    monkeypatch.setattr(mesh, "describe", lambda devices: "")
    monkeypatch.setattr(stages, "check", lambda config, names: None)
    ran: list[str] = []
    monkeypatch.setattr(stages, "run_all", lambda *arguments: ran.append("run"))
    workdir = tmp_path / "run"

    def run(spec: str, field: str, value: Any) -> tuple[int, str, bool]:
        ran.clear()
        # A value that is accepted makes a workdir, which the next one must not find.
        place = workdir / f"{field}_{len(list(workdir.glob('*')))}"
        status = program.main(
            [f"--config={tampered}:{spec}|{field}|{value!r}", f"--workdir={place}"]
        )
        assert bool(ran) == place.exists() == (status == 0), (field, value, status)
        return status, capsys.readouterr().err, place.exists()

    return run


def test_no_value_that_the_table_refuses_starts_a_run(start):
    """Generated from the table, so that a new field is covered by itself."""
    counts: Counter[str] = Counter()
    silent = []
    for field, spec in sorted(holders().items()):
        kind, metadata = validation.fields()[field]
        for value in candidates(kind, flat(base(spec))[field]):
            status, errors, made = start(spec, field, value)
            counts["accepted" if status == 0 else "refused"] += 1
            if status == 0:
                if certainly_wrong(kind, metadata, value):
                    silent.append((field, value))
                continue
            lines = errors.strip().splitlines()
            assert (status, made, len(lines)) == (2, False, 1), (field, value, errors)
            assert lines[0].startswith("wmpo_jax: ") and lines[0].endswith("."), lines
            assert "Traceback" not in errors and len(lines[0]) < 500, lines
    print(f"{len(holders())} fields, {sum(counts.values())} values: {dict(counts)}")
    assert silent == []
    assert counts["refused"] > 1500, counts


def overrides() -> list[str]:
    """As people type them."""
    text = ("x", "nan", "-1", "9" * 5000)
    return [f"{field}={value}" for field in flat(load_config("configs/tiny.py")) for value in text]


def test_the_same_on_the_command_line():
    """Whatever is typed behind a flag: it is taken, or refused in a sentence."""
    outcomes: Counter[str] = Counter()
    for override in overrides():
        try:
            found = load_config("configs/tiny.py", [override])
        except UserError as error:
            outcomes["refused"] += 1
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 500
        else:
            outcomes["taken"] += 1
            validation.check(found.to_dict(), "here")
    print(dict(outcomes))
    assert outcomes["refused"] > 250, outcomes


# (config, field, value, what the sentence says): written by hand, whatever the table may say.
MEANINGLESS = [
    ("configs/tiny.py", "policy.temperature", "0", "above 0"),
    ("configs/tiny.py", "policy.temperature", "-1.0", "above 0"),
    ("configs/tiny.py", "policy.bins", "1", "at least 2"),
    ("configs/tiny.py", "evaluate.primary", "Greedy", "did you mean greedy?"),
    ("configs/tiny.py", "evaluate.primary", "best", "greedy or sampled"),
    ("configs/tiny.py", "evaluate.batch_size", "0", "at least 1"),
    ("configs/tiny.py", "evaluate.episodes", "100", "not a multiple of evaluate.batch_size"),
    ("configs/tiny.py", "evaluate.videos", "300", "more than evaluate.batch_size"),
    ("configs/tiny.py", "improve.group_size", "0", "at least 2"),
    ("configs/tiny.py", "improve.group_size", "1", "at least 2"),
    ("configs/tiny.py", "improve.minibatch", "0", "at least 1"),
    ("configs/tiny.py", "improve.minibatch", "12", "splits groups of 8"),
    ("configs/tiny.py:smoke", "improve.groups", "5", "every epoch would drop some"),
    ("configs/tiny.py", "improve.groups", "0", "at least 1"),
    ("configs/tiny.py", "improve.attempts", "0", "at least 1"),
    ("configs/tiny.py", "improve.epochs", "0", "at least 1"),
    ("configs/tiny.py", "improve.clip_low", "-0.2", "at least 0"),
    ("configs/tiny.py", "improve.checkpoint_every", "0", "at least 1"),
    ("configs/tiny.py", "improve.iterations", "-1", "at least 0"),
    ("configs/tiny.py", "improve.iterations", "900000", "initial states of a run"),
    ("configs/tiny.py", "monitor.budget", "1000", "does not pay for 5 checks of 256"),
    ("configs/tiny.py", "monitor.every", "0", "at least 1"),
    ("configs/tiny.py", "lifelong.starts", "(0,)", "at least 1"),
    ("configs/tiny.py", "sft.steps", "-1", "at least 0"),
    ("configs/tiny.py", "sft.learning_rate", "nan", "above 0"),
    ("configs/tiny.py", "sft.checkpoint_every", "0", "at least 1"),
    ("configs/tiny.py", "sft.optimizer", "adam", "did you mean adamw?"),
    ("configs/tiny.py", "reward.validation_fraction", "1.0", "below 1"),
    ("configs/tiny.py", "reward.validation_fraction", "1.5", "below 1"),
    ("configs/tiny.py", "reward.window", "3", "a multiple of 2"),
    ("configs/tiny.py", "world_model.prediction", "eps", "residual or velocity"),
    ("configs/tiny.py", "world_model.heads", "3", "world_model.heads = 3 of an even width"),
    ("configs/tiny.py", "world_model.optimizer", "adamw", "needs world_model.weight_decay"),
    ("configs/tiny.py", "world_model.fine", "0", "copies = 5 needs world_model.fine"),
    ("configs/tiny.py", "world_model.train_times", "spread", "start_spread is 0"),
    ("configs/tiny.py", "world_model.sampling_steps", "3", "start_spread is 0"),
    ("configs/tiny.py", "autoencoder.steps", "100", "pixels, which need no training"),
    ("configs/tiny.py", "mesh.data", "0", "at least 1, or -1"),
    ("configs/tiny.py", "seed", "200", "below 200"),
    ("configs/tiny.py", "seed", "-1", "at least 0"),
    ("configs/tiny.py", "writers", "cvs", "csv or module:Class"),
    ("configs/tiny.py", "task", "", "give a dataset"),
    ("configs/tiny.py", "task", "libero_goal", "needs a section libero"),
    ("configs/tiny.py", "grpo_on_rollouts.settings", "(4, 1e-3)", "each item a pair"),
    ("configs/tiny.py", "grpo_on_rollouts.settings", "()", "each item a pair"),
    ("configs/libero.py:tiny", "libero.tasks", "(99,)", "at most 89"),
    ("configs/libero.py:tiny", "libero.tasks", "(1, 1)", "twice"),
    ("configs/libero.py:tiny", "libero.tasks", "(10,)", "from 0 to 9"),
    ("configs/libero.py:tiny", "evaluate.episodes", "512", "the 100 initial states"),
    ("configs/libero.py:tiny", "libero.wave", "0", "at least 1"),
    ("configs/libero.py", "networks.policy", "openvla_7B", "did you mean openvla_7b?"),
    ("configs/libero.py", "networks.dtype", "fp16", "float32 or bfloat16"),
    ("configs/libero.py", "world_model.history", "3", "set it to 4"),
    ("configs/libero.py", "reward.window", "4", "set it to 8"),
]


@pytest.mark.parametrize(("spec", "field", "value", "says"), MEANINGLESS)
def test_values_without_meaning(spec, field, value, says):
    with pytest.raises(UserError) as refusal:
        load_config(spec, [f"{field}={value}"])
    assert says in str(refusal.value)
    assert field in str(refusal.value) or "improve.minibatch" in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "override"),
    [
        ("configs/tiny.py", "sft.steps=0"),  # an imported network as it is
        ("configs/tiny.py", "evaluate.primary=sampled"),
        ("configs/tiny.py", "improve.clip_low=0"),
        ("configs/tiny.py", "mesh.data=-1"),
        ("configs/tiny.py", "improve.groups=5"),  # all of them in one minibatch of 80
        ("configs/tiny.py", "writers=csv, my.module:Sink"),
        ("configs/libero.py:tiny", "libero.tasks=()"),
        ("configs/libero.py:tiny", "libero.tasks=(8,9)"),
        ("configs/libero.py", "improve.micro_chunks=0"),
        ("configs/libero.py:tiny", "seed=199"),
    ],
)
def test_values_with_a_meaning_at_the_edge(spec, override):
    load_config(spec, [override])


def test_numbers_of_thousands_of_digits_are_not_printed(monkeypatch):
    config = load_config("configs/tiny.py").to_dict()
    config["seed"] = 10**5000
    with pytest.raises(UserError, match="a number of thousands of digits"):
        validation.check(config, "here")


def test_a_stored_config_may_come_from_an_older_version():
    config = load_config("configs/tiny.py").to_dict()
    config["policy"]["forgotten"] = 1
    config["grpo_on_rollouts"]["settings"] = [[4, 1e-3]]  # lists, as JSON has it
    validation.check(config, "config.json", stored=True)
    with pytest.raises(UserError, match="forgotten"):
        validation.check(config, "config.json")


def test_constants_of_the_table_are_those_of_the_package():
    assert (schema.MOST_STARTS, schema.RUN_SEEDS) == (BLOCK, MAX_RUN_SEED)
    families = {
        "policy": VLAConfig,
        "world_model": STDiTConfig,
        "autoencoder": AutoencoderKLConfig,
        "reward": VideoMAEConfig,
    }
    for role, family in families.items():
        for preset in get_args(schema.Networks.model_fields[role].annotation):
            made = getattr(family, preset)()
            if role == "world_model":
                assert made.history == schema.PRESET_HISTORY
            if role == "reward":
                assert made.num_frames == schema.PRESET_WINDOW


def test_paths_in_a_config_are_expanded_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "demos").mkdir()
    config = load_config("configs/libero.py", ["data.source=~/demos"])
    assert config.data.source == str(tmp_path / "demos")
    validation.check_paths(config)
    validation.check_paths(load_config("configs/tiny.py", ["data.source=gs://bucket/demos"]))
    missing = load_config("configs/libero.py", ["networks.weights.reward=no/such"])
    with pytest.raises(UserError, match=r"networks.weights.reward = no/such does not exist"):
        validation.check_paths(missing)
