"""A path means the same for every command, and a cache has a place on every machine."""

from pathlib import Path

import pytest

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import cache_folder, resolve


def test_home_is_expanded_and_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve("~/runs/a") == resolve("runs/a") == tmp_path.resolve() / "runs" / "a"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("~no_such_user/x", "leads nowhere .*write it without ~"),
        ("a\0b", "cannot be used .*null byte"),
        ("n" * 300, "cannot be used .File name too long.: give another"),
        ("", "An empty path"),
    ],
)
def test_what_leads_nowhere_is_refused(path, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(path)


def test_a_circle_of_links(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"leads nowhere .*: give another"):
        resolve(tmp_path / "loop")


def test_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("xla") == tmp_path / ".cache/wmpo_jax/xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("xla") == tmp_path / ".cache/wmpo_jax/xla"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder("xla") == tmp_path / "caches/wmpo_jax/xla"


def test_without_a_home_folder_caches_are_temporary(tmp_path, monkeypatch):
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder("xla").is_relative_to(tmp_path)
