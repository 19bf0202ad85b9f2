"""The page about several runs: what differs is seen, what is the same is not repeated."""

import json
import re
import shutil

import pytest

from tests.report.fake_workdir import fake_workdir, write_json
from tests.report.test_page import Balanced
from wmpo_jax.report import collate, compare
from wmpo_jax.report.record import read_run
from wmpo_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, one that stopped after imitation, and one whose name is a repetition."""
    folder = tmp_path_factory.mktemp("runs")
    whole = fake_workdir(folder / "a")
    half = shutil.copytree(whole, folder / "b")
    for path in (half / "stages").iterdir():
        if path.stem not in ("demos", "sft"):
            path.unlink()
    config = json.loads((half / "config.json").read_text())
    write_json(half / "config.json", config | {"seed": 3, "sft": {"learning_rate": 2e-3}})
    return [whole, half, shutil.copytree(whole, folder / "again" / "a")]


def test_page_is_whole_and_needs_no_network(runs, tmp_path):
    compare.write_comparison(tmp_path / "compare.html", runs)
    text = (tmp_path / "compare.html").read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"""(src|href)=["'](?!data:|\#)""", text) and "<script" not in text
    assert "var(--run2)" in text and not re.search("#0[0-9a-b]{5}", text)


def test_runs_of_one_name_are_distinguished(runs):
    names = list(compare.named_apart([read_run(run) for run in runs], runs))
    assert names[2] == "again/a" and names[0].endswith("/a") and len(set(names)) == 3
    with pytest.raises(UserError, match="twice"):
        compare.named_apart([read_run(runs[0])] * 2, [runs[0]] * 2)


def test_tables_hold_what_each_run_has(runs):
    records = compare.named_apart([read_run(run) for run in runs[:2]], runs[:2])
    rows = compare.result_table(records).rows
    assert [row[0] for row in rows] == ["a: base, greedy", "a: WMPO, greedy"]
    assert rows[1][1] == "80.4" and rows[1][4] == "+50.1 points [+46.4, +53.6]"
    assert [row[0] for row in compare.trust_table(records).rows] == [
        "a, before RL",
        "a, after RL",
    ]


def test_only_differing_fields_are_listed(runs):
    records = compare.named_apart([read_run(run) for run in runs[:2]], runs[:2])
    table = compare.config_differences(records)
    assert table.header == ("field", "a", "b")
    assert table.rows == (("seed", "0", "3"), ("sft.learning_rate", "0.001", "0.002"))


def test_curves_that_one_run_alone_has_are_left_to_its_own_report(runs, tmp_path):
    lonely = shutil.copytree(runs[1], tmp_path / "lonely")
    (lonely / "metrics" / "improve.jsonl").unlink()
    pair = [runs[0], lonely]
    groups = compare.overlaid_curves(compare.named_apart([read_run(run) for run in pair], pair))
    assert [group["stage"] for group in groups] == ["sft", "autoencoder", "world model"]


def test_the_command_takes_two_to_six_workdirs(runs, tmp_path, capsys):
    target = str(tmp_path / "page.html")
    assert compare.main([target, *map(str, runs[:2])]) == 0
    assert compare.main([target, str(runs[0])]) == 2
    assert "2 to 6 workdirs" in capsys.readouterr().err
    assert compare.main([target, str(runs[0]), str(tmp_path / "nowhere")]) == 2
    assert compare.main([]) == 2


@pytest.mark.parametrize("program", [compare, collate])
def test_a_folder_that_is_no_workdir_is_refused(program, runs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert program.main([str(tmp_path / "page.html"), str(runs[0]), str(empty)]) == 2
    assert "no workdir of a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [empty]


@pytest.mark.parametrize("program", [compare, collate])
@pytest.mark.parametrize("file", ["config", "stages/evaluate", "stages/gates", "stages/sft"])
@pytest.mark.parametrize("content", ["[]", "{}", '{"seconds": null}', "3", "{", ""])
def test_garbage_in_a_workdir_is_a_sentence(program, file, content, runs, tmp_path, capsys):
    """Or a page, where the field that is missing is not shown."""
    damaged = shutil.copytree(runs[0], tmp_path / "damaged")
    config = json.loads((damaged / "config.json").read_text())
    write_json(damaged / "config.json", config | {"seed": 5})
    (damaged / f"{file}.json").write_text(content)
    status = program.main([str(tmp_path / "out.html"), str(runs[0]), str(damaged)])
    if status:
        assert status == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert (status == 0) == any(tmp_path.glob("out.*"))


def test_paths_in_the_home_folder(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compare.main(["~/page.html", *map(str, runs[:2])]) == 0
    assert (tmp_path / "page.html").exists()
