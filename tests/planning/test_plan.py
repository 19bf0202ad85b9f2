"""The door to planning: mistakes end with one sentence."""

import pytest

from wmpo_jax import plan


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--topology=v9:2x2"], "There is no topology 'v9:2x2'"),
        (["--topology=80GB:65"], "up to 64"),
        ([], "Give --topology"),
        (["--topology=80GB:1", "--phase=sft"], "There is no flag --phase=sft"),
    ],
)
def test_misuse(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(flags) == 2
    assert sentence in capsys.readouterr().err
