"""The page and the final table, from a made-up workdir and from an almost empty one."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.report.fake_workdir import (
    FRAMES,
    fake_outcomes,
    fake_results,
    fake_workdir,
    write_clips,
    write_json,
    write_lines,
)
from wmpo_jax.report.page import headline, render, write_report
from wmpo_jax.report.record import minutes, read_curves, read_run, real_episodes
from wmpo_jax.report.tables import gates, monitor_table, result_table
from wmpo_jax.report.videos import read_clips, what_became
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_record
from wmpo_jax.runtime.workdir import LAYOUT


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return fake_workdir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page_text(workdir):
    return write_report(workdir).read_text()


class Balanced(HTMLParser):
    """Fails on a tag that is closed twice or never."""

    VOID = ("meta", "img", "source")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(page_text):
    parser = Balanced()
    parser.feed(page_text)
    assert parser.open == []
    assert not re.search(r"""(src|href|srcset)=["'](?!data:|\#)""", page_text)
    assert "@import" not in page_text and not re.search(r"url\((?!#)", page_text)
    assert "<script" not in page_text


def test_page_tells_the_result_first(page_text):
    top = page_text.split('id="result"')[0]
    assert "30.3" in top and "80.4" in top
    assert "Imagination improved the policy" in top
    assert "+50.1 points [+46.4, +53.6]" in top


def test_same_workdir_gives_the_same_page(workdir, page_text):
    page = write_report(workdir)
    assert page == workdir / "report" / "index.html"
    assert page.read_text() == page_text


def test_plots_take_their_colors_from_the_page(page_text):
    drawn = re.findall("<svg.*?</svg>", page_text, flags=re.DOTALL)
    assert len(drawn) == 3 + 2 + 6 + 5  # at a glance, bars, three losses with norms, improve
    assert "var(--better)" in page_text and not re.search("#0[1-5]0[1-5]0[1-5]", page_text)


def test_unfinished_run_says_what_is_missing(tmp_path):
    save_record(tmp_path / "stages" / "sft.json", {"seconds": 60.0, "steps": 10})
    text = write_report(tmp_path).read_text()
    assert "Not evaluated yet" in text
    assert "Not run yet: demos, collect, autoencoder" in text
    assert text.count("not run yet") == 9
    assert "No videos yet" in text


def test_missing_workdir_and_broken_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no workdir"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "sft.json").write_text("{")
    with pytest.raises(UserError, match=r"sft\.json"):
        write_report(tmp_path)


def test_names_from_the_run_cannot_break_the_page(tmp_path):
    write_json(tmp_path / "layout.json", {"version": LAYOUT})
    write_json(tmp_path / "config.json", {"note": "<script>alert(1)</script>"})
    assert "<script" not in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, "improved"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "No clear change")],
)
def test_verdict_follows_the_interval(tmp_path, low, high, verdict):
    evaluation = fake_results()["evaluate"]
    evaluation["paired"]["greedy"] |= {"low": low, "high": high}
    save_record(tmp_path / "stages" / "evaluate.json", evaluation)
    assert verdict in headline(read_run(tmp_path))["verdict"]


def test_result_table_counts_what_each_policy_cost(workdir):
    record = read_run(workdir)
    lines = result_table(record).as_text().splitlines()
    assert lines[0].split()[-6:] == ["n", "labeled", "play", "checks", "imagined", "minutes"]
    cells = [re.split(r"  +", line)[3:] for line in lines[2:4]]
    assert cells[0] == ["1 024", "384", "0", "0", "0", "2.0"]
    assert cells[1] == ["1 024", "512", "8 512", "0", "3 072", "11.3"]
    assert [real_episodes(record, p) for p in ("base", "grpo_on_rollouts", "wmpo")] == [
        384,
        512,
        9024,
    ]
    assert minutes(record, "base") == pytest.approx((39.0 + 78.2) / 60)
    assert minutes(record, "grpo_on_rollouts") is None


def test_grpo_on_rollouts_joins_the_table_but_not_the_headline(tmp_path):
    counts = {"successes": 590, "n": 1024}
    save_record(tmp_path / "stages" / "evaluate.json", fake_results()["evaluate"])
    best = {"epochs": 2, "greedy": counts, "sampled": counts}
    save_record(tmp_path / "stages" / "grpo_on_rollouts.json", {"seconds": 9.0, "best": best})
    record = read_run(tmp_path)
    assert "GRPO on the rollouts, greedy        57.6" in result_table(record).as_text()
    assert [bar["kind"] for bar in headline(record)["bars"] if bar["hero"]] == ["base", "wmpo"]


def test_checks_and_why_reinforcement_stopped(tmp_path):
    fake_workdir(tmp_path)
    check = {"n": 200, "agreement": 0.9, "false_success": 0.1, "real_psnr": 25.0}
    checks = [
        check | {"iteration": 0, "real_success": 0.3, "imagined_success": 0.35},
        check | {"iteration": 4, "real_success": 0.1, "imagined_success": 0.9},
    ]
    first = fake_results()["improve"] | {"checks": checks, "stopped": "Real success fell."}
    second = fake_results()["improve"] | {"seconds": 600.0, "checks": checks[:1]}
    save_record(tmp_path / "stages/improve.json", first)
    save_record(tmp_path / "stages/improve_2.json", second)
    entries = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    entries.append({"stage": "improve", "name": "monitor", "episodes": 400})
    entries.append({"stage": "collect_2", "name": "rollouts_2", "episodes": 64})
    write_lines(tmp_path / "ledger.jsonl", entries)
    record = read_run(tmp_path)
    rows = monitor_table(record).rows
    assert [row[0] for row in rows] == ["iteration 0", "iteration 4", "round 2, iteration 0"]
    assert rows[1][1:4] == ("10.0", "6.6\N{EN DASH}14.9", "90.0")
    cells = re.split(r"  +", result_table(record).as_text().splitlines()[3])[3:]
    assert cells == ["1 024", "576", "8 512", "400", "6 144", "21.3"]
    page = render(record)
    assert "Reinforcement:</b> Real success fell." in page and "round 2, iteration 0" in page


def test_failed_gates_come_first(workdir):
    found = gates(read_run(workdir))
    assert [gate["passed"] for gate in found] == [False, True, True]
    assert found[0]["name"] == "success rate gap" and found[0]["where"] == "before RL"


def test_curves_survive_a_kill_and_a_resume(tmp_path):
    path = tmp_path / "sft.jsonl"
    lines = [{"step": 0, "time": 5.0, "sft/loss": 3.0}, {"step": 1, "sft/loss": 9.0}]
    lines.append({"step": 1, "sft/loss": 2.0})
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "lo')
    curves = read_curves(path)
    assert list(curves) == ["loss"]
    assert curves["loss"].steps.tolist() == [0, 1]
    assert curves["loss"].values.tolist() == [3.0, 2.0]


def test_clips_show_left_and_right_enlarged_and_loop(tmp_path):
    write_clips(tmp_path)
    group = read_clips(tmp_path / "base_improved.npz")
    assert [clip.note for clip in group.clips] == ["start 0", "start 1", "start 2"]
    data = base64.b64decode(group.clips[0].animation.split(",")[1])
    image = Image.open(io.BytesIO(data))
    assert len(ImageSequence.all_frames(image)) == FRAMES + 1 and image.info["loop"] == 0
    pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (26 + 192 + 3, 2 * 192 + 6, 3)
    pad = pixels[26 + 6 * 20 : 26 + 6 * 28, 6 * 18 : 6 * 26]
    assert (pad == (190, 90, 60)).all()


def test_clips_say_what_became_of_their_start(page_text):
    for words in ("start 0: base failed, WMPO solved it", "start 1: both solved it"):
        assert words in page_text
    assert what_became("start 2", fake_outcomes()) == "base solved it, WMPO failed"
    assert what_became("start 9", fake_outcomes()) == ""
    assert what_became("imagination lied", fake_outcomes()) == ""


def test_confusion_matrices_come_with_precision_and_recall(page_text):
    assert "precision 96.9 %, recall 94.1 %" in page_text  # 190 of 196, 190 of 202


def test_clips_of_different_shapes_are_refused(tmp_path):
    path = tmp_path / "odd.npz"
    frames = np.zeros((1, 3, 8, 8, 3), np.uint8)
    np.savez(path, left_BTHWC=frames, right_BTHWC=frames[:, :2], caption=["real | imagined"])
    with pytest.raises(UserError, match="one shape"):
        read_clips(path)
    np.savez(path, left_BTHWC=frames)
    with pytest.raises(UserError, match="lacks caption, right_BTHWC"):
        read_clips(path)
