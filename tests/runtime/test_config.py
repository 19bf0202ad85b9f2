"""A mistake in a config or its overrides is one sentence that names the field and the file."""

from pathlib import Path

import pytest

from wmpo_jax.runtime.config import config_hash, config_name, flatten, load_config
from wmpo_jax.runtime.errors import UserError

SOURCE = """
from configs import tiny

def get_config(variant=""):
    if variant not in ("", "smoke"):
        raise ValueError("only smoke")
    return tiny.get_config(variant)
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "little.py"
    path.write_text(SOURCE)
    return str(path)


def test_overrides_take_the_type_of_the_field(spec: str) -> None:
    config = load_config(
        f"{spec}:smoke",
        ["improve.iterations=3", "sft.learning_rate=1", "grpo_on_rollouts.settings=((3, 0.5),)"],
    )
    assert config.sft.steps == 40
    assert config.improve.iterations == 3
    assert config.sft.learning_rate == 1.0 and isinstance(config.sft.learning_rate, float)
    assert config.grpo_on_rollouts.settings == ((3, 0.5),)
    assert config.is_locked


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("", ["improve.iteration=3"], r"little.py has no field improve.iteration; .*iterations"),
        ("", ["sft.steps=abc"], r"sft.steps=abc was refused: it must be a whole number"),
        ("", ["gates.enforce=maybe"], r"it must be True or False"),
        ("", ["grpo_on_rollouts.settings=(1,"], r"it must be a tuple"),
        ("", ["sft=3"], r"no field sft;"),
        ("", ["sft.steps"], r"write --config.sft.steps=VALUE"),
        (":smok", [], r"no variant 'smok': only smoke"),
        (":", [], r"names no variant after the colon"),
    ],
)
def test_mistakes(spec: str, variant: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(spec + variant, overrides)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no config file .*choose one of"),
        ("def get_config(:", "line 1 is not valid Python"),
        ("x = 1", "no function get_config"),
        ("get_config = dict", "returned dict, not ConfigDict"),
        ("import no_such_module", "line 1 failed with ModuleNotFoundError: No module named"),
        ("def get_config():\n    return 1 / 0", "line 2 failed with ZeroDivisionError: division"),
        ("def get_config():\n    raise ValueError", "line 2 failed with ValueError; correct"),
        ("raise SystemExit(3)", "line 1 failed with SystemExit: 3; correct the file"),
        ("x = {}['get_config']", "line 1 failed with KeyError"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, source: str | None, message: str) -> None:
    path = tmp_path / "broken.py"
    if source:
        path.write_text(source)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_an_installed_package_brings_its_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, empty = tmp_path / "package", tmp_path / "empty"
    (package / "configs").mkdir(parents=True)
    empty.mkdir()
    (package / "configs" / "little.py").write_text(SOURCE)
    monkeypatch.setattr("wmpo_jax.runtime.config.HOMES", (package,))
    monkeypatch.chdir(empty)
    assert load_config("configs/little.py:smoke").sft.steps == 40


def test_configs_are_found_and_listed_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of MimicGen import their neighbors."""
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/mimicgen_coffee.py:lora").task == "mimicgen_coffee"
    with pytest.raises(UserError, match=r"choose one of: .*tiny\.py\."):
        load_config("configs/tny.py")
    monkeypatch.setattr("wmpo_jax.runtime.config.HOMES", ())
    with pytest.raises(UserError, match=r"no config file configs/tny.py; give the path"):
        load_config("configs/tny.py")


def test_a_config_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(SOURCE)
    assert load_config("~/mine.py:smoke").sft.steps == 40
    with pytest.raises(UserError, match="leads nowhere"):
        load_config("~no_such_user/mine.py")


def test_hash_follows_the_values(spec: str) -> None:
    config = load_config(spec)
    assert config_hash(config) == config_hash(load_config(spec))
    assert config_hash(config) != config_hash(load_config(spec, ["seed=1"]))
    assert flatten(config)["grpo_on_rollouts.settings"][0] == [4, 1e-3]


def test_name_of_a_run() -> None:
    assert config_name("configs/tiny.py") == "tiny"
    assert config_name("configs/tiny.py:smoke") == "tiny_smoke"
