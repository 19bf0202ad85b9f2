"""The self-check tells what a bug report needs, without what is not there."""

from pathlib import Path

import jax

from wmpo_jax.runtime import selfcheck


def test_facts_are_of_this_machine(tmp_path: Path, capsys) -> None:
    found = selfcheck.facts(tmp_path)
    assert found["jax"] == jax.__version__
    assert found["matrix product"] == "right"
    assert found["devices"].startswith(f"{jax.device_count()} x ")
    assert all(isinstance(value, str) for value in found.values())
    assert selfcheck.main() == 0
    assert capsys.readouterr().out.count("\n") == len(found)
