"""Driving: everyone acts where they should, and nonsense is refused."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.drive.conftest import SIZE
from wmpo_jax.drive import session as driving
from wmpo_jax.runtime.errors import UserError

STILL = [0.0, 0.0, 0.0]
SIDES = ("real", "imagined")


def pixels(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def opened(session, number=0):
    return session.reset({"role": "evaluation", "number": number})["episode"]


def chunk(session, episode, real="hand", imagined="same", hand=STILL):
    call = {"episode": episode, "real": real, "imagined": imagined, "hand": hand}
    return session.step(json.loads(json.dumps(call)))


def test_each_driver_acts_in_the_world_that_it_drives(session):
    """Hand 1 + 1 + 1 over four actions is 12, the policy's 2s are 24; imagination shows 3 less."""
    hand = [1.0, 1.0, 1.0]
    levels = []
    for real, imagined in (("hand", "same"), ("base", "same"), ("base", "hand"), ("hand", "base")):
        answer = chunk(session, opened(session), real, imagined, hand)
        levels.append([int(pixels(answer[side]["frames"][-1])[0, 0, 0]) for side in SIDES])
    assert levels == [[82, 79], [94, 91], [94, 79], [82, 91]]


def test_chunks_follow_each_other(session):
    episode, other = opened(session), opened(session)
    for count in (1, 2, 3):
        answer = chunk(session, episode, hand=[0.0, 0.0, 0.5])
        assert answer["steps"] == 4 * count
        assert pixels(answer["real"]["frames"][0])[0, 0, 0] == 70 + 2 * count
    assert chunk(session, other)["steps"] == 4


def test_answer_holds_what_the_page_draws(session):
    answer = chunk(session, opened(session))
    json.dumps(answer)
    assert answer["steps"] == 4 and len(answer["error"]) == 4
    for side in ("real", "imagined"):
        assert len(answer[side]["frames"]) == len(answer[side]["probability"]) == 4
        assert pixels(answer[side]["frames"][0]).shape == (SIZE, SIZE, 3)
        assert all(0 <= p <= 1 for p in answer[side]["probability"])
    assert set(answer["milliseconds"]) == {"policy", "real", "imagined"}


def test_error_is_the_root_mean_square_of_the_pixels(session):
    assert chunk(session, opened(session))["error"] == pytest.approx([3.0] * 4)


def test_reset_gives_start_instruction_and_what_the_policies_did_there(session):
    answer = session.reset({"role": "evaluation", "number": 1})
    assert answer["seed"] == 80 and answer["instruction"] == "be gray"
    assert answer["outcomes"] == {"base": False}
    assert session.reset({"role": "demos", "number": 0})["outcomes"] == {}
    assert session.about()["starts"] == {"evaluation": 3, "demos": 1}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"role": "evaluation", "number": 3},
        {"role": "evaluation", "number": "0"},
        {"role": "demos", "number": -1},
        {"role": ["demos"], "number": 0},
        {"role": "evaluation", "number": True},
        {"role": "evaluation", "number": 1.0},
        {"role": {}, "number": 0},
    ],
)
def test_unknown_starts_are_refused(session, request_):
    with pytest.raises(UserError, match="evaluation 0-2, demos 0-0"):
        session.reset(request_)


@pytest.mark.parametrize(
    "hand",
    [None, [0.0], [0.0, 0.0, 1.5], [float("nan"), 0.0, 0.0], ["0", "0", "0"], "000", [True] * 3],
)
def test_what_is_no_action_is_refused_and_moves_nothing(session, hand):
    episode = opened(session)
    with pytest.raises(UserError, match="3 numbers from -1 to 1"):
        chunk(session, episode, hand=hand)
    assert chunk(session, episode)["steps"] == 4


@pytest.mark.parametrize(("real", "imagined"), [("same", "same"), ("wmpo", "same"), ("hand", None)])
def test_unknown_drivers_are_refused(session, real, imagined):
    with pytest.raises(UserError, match="can drive here"):
        chunk(session, opened(session), real=real, imagined=imagined)


def test_oldest_episode_is_forgotten_first(session, monkeypatch):
    monkeypatch.setattr(driving, "MAX_EPISODES", 2)
    oldest, *_, newest = [opened(session) for _ in range(3)]
    assert chunk(session, newest)["steps"] == 4
    with pytest.raises(UserError, match="reset"):
        chunk(session, oldest)


def test_everything_is_compiled_before_the_first_step(session):
    """By hand as well as by a policy, from a fresh world and from one that has moved."""
    seen = []
    worlds = session._worlds
    step_real = worlds.step_real
    worlds.step_real = lambda side, actions: (
        seen.append(float(actions[0, 0, 0])) or step_real(side, actions)
    )
    session.warm_up()
    assert seen == [0.0, 0.0, 2.0, 2.0]
    with pytest.raises(UserError, match="reset"):  # its episodes are gone
        chunk(session, "1")


def test_fifty_pages_keep_their_episodes(session):
    episodes = [opened(session) for _ in range(50)]
    assert all(chunk(session, episode)["steps"] == 4 for episode in episodes)


def test_messages_repeat_little_of_what_was_sent(session):
    for nonsense in ("x" * 9000, [[[[[[[[[[1]]]]]]]]]] * 500):
        with pytest.raises(UserError) as refusal:
            chunk(session, opened(session), hand=nonsense)
        assert len(str(refusal.value)) < 300
