"""What is set before JAX starts, without overruling the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmpo_jax.runtime import environment


def test_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = "--xla_force_host_platform_device_count=7"
    monkeypatch.setattr(
        os, "environ", {"XLA_FLAGS": theirs, "JAX_COMPILATION_CACHE_DIR": "/theirs"}
    )
    environment.prepare(cpu_devices=2)
    assert os.environ["XLA_FLAGS"].count("device_count") == 1
    assert theirs in os.environ["XLA_FLAGS"]
    assert "--xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"]
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/theirs"


@pytest.mark.parametrize(
    ("node", "platforms"), [("null", "cpu"), ("accel0", None), ("vfio/0", None), ("nvidia0", None)]
)
def test_libtpu_is_left_alone_where_no_accelerator_is(
    node: str, platforms: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libtpu")
    (tmp_path / node).parent.mkdir(exist_ok=True)
    (tmp_path / node).touch()
    monkeypatch.setattr(environment, "_DEV", tmp_path)
    monkeypatch.setattr(os, "environ", {})
    environment.prepare()
    assert os.environ.get("JAX_PLATFORMS") == platforms


def test_preparing_does_not_start_jax() -> None:
    code = "import sys, wmpo_jax.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_restart_happens_once_and_keeps_the_arguments() -> None:
    code = (
        "import os, sys; from wmpo_jax.runtime import environment;"
        "print('start', flush=True); environment.restart_with_huge_pages();"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    )
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--flag=1"], env=clean, capture_output=True, text=True
    )
    expected = "glibc.malloc.hugetlb=1 ['--flag=1']"
    assert done.stdout.splitlines() == ["start", "start", expected], done.stderr
