"""A mistake in a config or its overrides is one sentence that names the field and the file."""

from pathlib import Path

import pytest

from wmpo_jax.runtime.config import config_hash, config_name, flatten, load_config
from wmpo_jax.runtime.errors import UserError

SOURCE = """
from ml_collections import ConfigDict

def get_config(variant=""):
    if variant not in ("", "smoke"):
        raise ValueError("only smoke")
    return ConfigDict({
        "seed": 0, "shape": (1, 2),
        "sft": {"steps": 10 if variant else 900, "learning_rate": 1e-3},
        "improve": {"iterations": 12},
    })
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "little.py"
    path.write_text(SOURCE)
    return str(path)


def test_overrides_take_the_type_of_the_field(spec: str) -> None:
    config = load_config(
        f"{spec}:smoke", ["improve.iterations=3", "sft.learning_rate=2", "shape=(3, 4)"]
    )
    assert config.sft.steps == 10
    assert config.improve.iterations == 3
    assert config.sft.learning_rate == 2.0 and isinstance(config.sft.learning_rate, float)
    assert config.shape == (3, 4)
    assert config.is_locked


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("", ["improve.iteration=3"], r"little.py has no field improve.iteration; .*iterations"),
        ("", ["sft.steps=abc"], r"sft.steps=abc"),
        ("", ["sft.steps"], r"write --config.sft.steps=VALUE"),
        (":smok", [], r"no variant 'smok': only smoke"),
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
    monkeypatch.setattr("wmpo_jax.runtime.config.PACKAGE", package)
    monkeypatch.chdir(empty)
    assert load_config("configs/little.py:smoke").sft.steps == 10


def test_hash_follows_the_values(spec: str) -> None:
    config = load_config(spec)
    assert config_hash(config) == config_hash(load_config(spec))
    assert config_hash(config) != config_hash(load_config(spec, ["seed=1"]))
    assert flatten(config)["shape"] == [1, 2]


def test_name_of_a_run() -> None:
    assert config_name("configs/tiny.py") == "tiny"
    assert config_name("configs/tiny.py:smoke") == "tiny_smoke"
