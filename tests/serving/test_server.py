"""What the policy server answers: to the right observations, to wrong ones, to many at once."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from tests.serving import openpi
from tests.serving.conftest import CHUNK, DIM, SIZE
from wmpo_jax import serve
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.messages import pack, unpack
from wmpo_jax.serving import batching, server

FRAME = np.full((SIZE, SIZE, 3), 51, np.uint8)
GOOD = {"observation/image": FRAME, "prompt": "be gray"}


def open_client(port: int, **options: Any) -> Any:
    return connect(f"ws://127.0.0.1:{port}", compression=None, **options)


def ask(client: Any, observation: Any) -> Any:
    client.send(observation if isinstance(observation, str | bytes) else pack(observation))
    answer = client.recv(timeout=10)
    return answer if isinstance(answer, str) else unpack(answer)


def array_with(key: bytes, value: Any) -> bytes:
    """An observation whose image is a packed array that contradicts itself."""
    packed = {b"__ndarray__": True, b"data": b"12345678", b"dtype": "<f4", b"shape": [2]}
    return pack({"observation/image": packed | {key: value}, "prompt": "be gray"})


def test_metadata_then_chunks(serving):
    with open_client(serving()) as client:
        metadata = unpack(client.recv())
        assert (metadata["chunk"], metadata["action_dim"], metadata["image_size"]) == (4, 7, 8)
        answer = ask(client, GOOD)
        assert answer["actions"].shape == (CHUNK, DIM) and answer["actions"].dtype == np.float32
        np.testing.assert_allclose(answer["actions"], 0.2, rtol=1e-6)
        assert set(answer["server_timing"]) == {"infer_ms"}
        assert set(ask(client, GOOD)["server_timing"]) == {"infer_ms", "prev_total_ms"}


@pytest.mark.skipif(not openpi.PYTHON.exists(), reason="python -m tests.serving.openpi makes it")
def test_the_real_client_is_answered_and_stays_connected_after_a_mistake(serving):
    child = str(Path(__file__).with_name("openpi_child.py"))
    command = [str(openpi.PYTHON), child, str(serving())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(result.stdout)
    assert found["metadata"]["policy"] == "gray" and found["timing"] == ["infer_ms"]
    assert "has no image: send it as observation/image" in found["refusal"]
    np.testing.assert_allclose(found["first"], 7 / 255, rtol=1e-6)
    np.testing.assert_allclose(found["steps"], 7 / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ("hello", "The message is text"),
        (b"\xc1", "not msgpack"),
        (b"", "not msgpack"),
        (b"\x81\xc4\x0b__ndarray__\xc3", "not msgpack"),
        (7, "a dict with an image and a prompt, not a int"),
        (pack({}).replace(b"\x80", b"\x81\xa1a" * 400 + b"\x01"), "has no image"),
        (array_with(b"dtype", "f4,f4"), "an array has the type f4,f4"),
        (array_with(b"dtype", "|O8"), "an array has the type |O8"),
        (array_with(b"dtype", ["f4"]), "an array has the type"),
        (array_with(b"shape", [-1]), "an array has the shape (-1,)"),
        (array_with(b"shape", [2**40]), "has 8 bytes"),
        ({"prompt": "be gray"}, "has no image: send it as observation/image"),
        ({"observation/image": FRAME}, "has no prompt"),
        (GOOD | {"prompt": " "}, "has no prompt"),
        (GOOD | {"prompt": 3}, "has no prompt"),
        (GOOD | {"prompt": "dance"}, "does not dance"),
        (GOOD | {"observation/image": FRAME[None]}, "an array of shape (1, 8, 8, 3)"),
        (GOOD | {"observation/image": FRAME[..., :1]}, "height x width x 3"),
        (GOOD | {"observation/image": "a picture"}, "is str, but must be an array"),
        (GOOD | {"observation/image": FRAME[:4]}, "4 x 8 pixels, but sides must be from 8"),
        (GOOD | {"observation/image": FRAME.astype(np.int64)}, "pixels of type int64"),
        (GOOD | {"observation/image": FRAME.astype(np.float32)}, "float pixels outside 0..1"),
        (GOOD | {"observation/image": np.full(FRAME.shape, np.nan)}, "float pixels outside"),
    ],
)
def test_a_wrong_observation_is_one_sentence_and_the_connection_stays(
    serving, observation, message
):
    with open_client(serving()) as client:
        client.recv()
        answer = ask(client, observation)
        assert isinstance(answer, str) and message in answer and "\n" not in answer
        assert ask(client, GOOD)["actions"].shape == (CHUNK, DIM)


@pytest.mark.parametrize(
    "observation",
    [
        {"observation": {"image": FRAME}, "prompt": "be gray"},
        {"images": {"cam_high": np.moveaxis(FRAME, 2, 0)}, "prompt": np.str_("be gray")},
        GOOD | {"observation/image": (FRAME / 255).astype(np.float32)},
        GOOD | {"observation/image": np.tile(FRAME, (2, 3, 1))},  # not the policy's own size
    ],
)
def test_forms_that_openpi_clients_send(serving, observation):
    with open_client(serving()) as client:
        client.recv()
        np.testing.assert_allclose(ask(client, observation)["actions"], 0.2, atol=0.004)


def test_concurrent_clients_share_batches_and_get_their_own_actions(serving, gray):
    port = serving(batch=4)
    gray.batches.clear()

    def one(level: int) -> float:
        with open_client(port) as client:
            client.recv()
            frame = np.full((SIZE, SIZE, 3), level, np.uint8)
            return float(ask(client, GOOD | {"observation/image": frame})["actions"][0, 0])

    gray.pause.clear()
    with ThreadPoolExecutor(9) as threads:
        found = threads.map(one, range(9))
        time.sleep(0.5)  # all nine wait: the first is being computed alone
        gray.pause.set()
        np.testing.assert_allclose(list(found), np.arange(9) / 255, rtol=1e-5)
    assert set(gray.batches) <= {1, 4} and len(gray.batches) < 6


def test_a_client_that_leaves_is_not_waited_for(serving, gray):
    port = serving()
    gray.pause.clear()
    with open_client(port) as client:
        client.recv()
        client.send(pack(GOOD))
    gray.pause.set()
    with open_client(port) as client:
        client.recv()
        assert ask(client, GOOD)["actions"].shape == (CHUNK, DIM)


def test_only_so_many_image_sizes_are_compiled(serving, monkeypatch):
    monkeypatch.setattr(batching, "MOST_SIZES", 2)
    with open_client(serving()) as client:
        client.recv()
        other = GOOD | {"observation/image": np.zeros((9, 9, 3), np.uint8)}
        assert "actions" in ask(client, other)
        third = GOOD | {"observation/image": np.zeros((10, 10, 3), np.uint8)}
        assert "takes no other: send 8 x 8 pixels" in ask(client, third)
        assert "actions" in ask(client, other)


def test_a_failure_inside_is_said_and_ends_that_connection_alone(serving, gray, capsys):
    port = serving()
    with open_client(port) as client:
        client.recv()
        gray.fails = True
        assert "The policy failed" in ask(client, GOOD)
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    gray.fails = False
    assert "ZeroDivisionError" in capsys.readouterr().err
    with open_client(port) as client:
        client.recv()
        assert "actions" in ask(client, GOOD)


def test_token(serving):
    port = serving(token="secret")
    for headers in ({}, {"Authorization": "Api-Key other"}, {"Authorization": "secret"}):
        with pytest.raises(InvalidStatus, match="401"):
            open_client(port, additional_headers=headers).__enter__()
    with open_client(port, additional_headers={"Authorization": "Api-Key secret"}) as client:
        assert unpack(client.recv())["policy"] == "gray"


def test_health_check_needs_no_token_and_pages_of_browsers_may_not_ask(serving):
    port = serving(token="secret")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    headers = {"Authorization": "Api-Key secret"}
    with pytest.raises(InvalidStatus, match="403"):
        open_client(port, origin="http://page.example", additional_headers=headers).__enter__()


def test_an_address_that_is_taken_is_refused_before_anything_is_loaded(serving):
    port = serving()
    with pytest.raises(UserError, match=f"127.0.0.1:{port} .*choose another --port"):
        server.claimed("127.0.0.1", port)
    with pytest.raises(UserError, match="choose another --port"):
        server.claimed("127.0.0.1", 99_999)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=nowhere"], "no workdir of a run"),
        (["--checkpoint=nowhere"], "no converted checkpoint"),
        (["--workdir=x", "--statistics=y"], "--statistics belongs to --checkpoint"),
        (["--checkpoint=x", "--stage=sft"], "--stage belongs to --workdir"),
    ],
)
def test_flags_that_cannot_be_served(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve.main([*flags, "--port=0"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert serve.main(["--workdir=x"]) == 2
    assert "pip install 'wmpo_jax[serve]'" in capsys.readouterr().err
