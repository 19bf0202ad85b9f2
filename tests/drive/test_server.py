"""The server answers the page, refuses other pages, and survives nonsense."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wmpo_jax import play
from wmpo_jax.drive.server import CLIENTS, MAX_BODY, PAGE, PlayServer
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

JSON = {"Content-Type": "application/json"}


class Echo:
    """A driver that repeats what it gets."""

    def about(self):
        return {"task": "echo"}

    def reset(self, request):
        return request

    def step(self, request):
        if "bug" in request:
            raise KeyError("of the driver's own")
        raise UserError("No step today.")


@pytest.fixture
def server():
    with PlayServer("127.0.0.1", 0) as server:
        server.driver = Echo()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, path, body=None, headers=JSON):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_page_and_calls(server):
    for path, kind in (("/", "html"), ("/play.js", "javascript"), ("/style.css", "css")):
        status, body, headers = ask(server, "GET", path)
        assert status == 200 and kind in headers["Content-Type"] and len(body) > 500
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert json.loads(ask(server, "GET", "/about")[1]) == {"task": "echo"}
    assert json.loads(ask(server, "POST", "/reset", '{"number": 3}')[1]) == {"number": 3}


def test_errors_are_sentences(server):
    status, body, _ = ask(server, "POST", "/step", "{}")
    assert status == 400 and json.loads(body) == {"error": "No step today."}


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "3", "\xff", "{}" + " " * MAX_BODY, "[" * 9000, "9" * 9000]
)
def test_nonsense_is_refused_and_the_server_goes_on(server, body):
    status, answer, _ = ask(server, "POST", "/reset", body.encode("latin-1"))
    assert status == 400 and "error" in json.loads(answer)
    assert ask(server, "GET", "/about")[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        "Content-Length: " + "9" * 5000,
        "Content-Length: \u00b2",
        "Content-Length: -1",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "X-None: 1",
    ],
)
def test_a_body_of_unknown_length_is_refused(server, header):
    answer = raw(server, f"Host: localhost\r\nContent-Type: application/json\r\n{header}")
    assert answer.startswith("HTTP/1.1 400 ") and "Content-Length of at most" in answer


def test_a_bug_of_the_driver_is_answered_and_shown(server, capfd):
    status, answer, _ = ask(server, "POST", "/step", '{"bug": 1}')
    assert status == 500 and "terminal" in json.loads(answer)["error"]
    assert "KeyError" in capfd.readouterr().err
    assert ask(server, "GET", "/about")[0] == 200


@pytest.mark.parametrize("path", ["/../session.py", "/page/index.html", "/.git/config", "/reset"])
def test_nothing_else_is_served(server, path):
    assert ask(server, "GET", path)[0] == 404


def test_other_pages_of_the_browser_cannot_drive(server):
    """A form cannot send JSON, and a name that was rebound to 127.0.0.1 is not ours."""
    assert ask(server, "POST", "/reset", "{}", {"Content-Type": "text/plain"})[0] == 400
    assert ask(server, "POST", "/reset", "{}", {**JSON, "Host": "evil.example:80"})[0] == 403
    assert ask(server, "GET", "/about", headers={"Host": "[::1]:80"})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_calls_of_another_origin_are_refused(server, origin):
    assert ask(server, "POST", "/reset", "{}", {**JSON, "Origin": origin})[0] == 403
    assert ask(server, "GET", "/about", headers={"Origin": origin})[0] == 403


def test_our_own_page_may_call(server):
    for host in ("127.0.0.1", "localhost", "LocalHost", "[::1]"):
        name = f"{host}:{server.server_address[1]}"
        headers = {**JSON, "Host": name, "Origin": f"http://{name}"}
        assert ask(server, "POST", "/reset", "{}", headers)[0] == 200


@pytest.mark.parametrize(
    "hosts",
    [
        "",
        "Host: localhost\r\nHost: evil.example",
        "Host: evil.example\r\nHost: localhost",
        "Host: [",
    ],
)
def test_a_call_names_one_host(server, hosts):
    head = f"{hosts}\r\n" if hosts else ""
    answer = raw(server, f"{head}Content-Type: application/json\r\nContent-Length: 2", "{}")
    assert answer.startswith("HTTP/1.1 403 ")


def raw(server, headers, body=""):
    """The whole answer to a POST that http.client would not send."""
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        request = f"POST /reset HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n{body}"
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode()


def test_fifty_clients_at_once_are_all_answered(server):
    with ThreadPoolExecutor(50) as clients:
        calls = [
            clients.submit(ask, server, "POST", "/reset", f'{{"number": {n}}}') for n in range(200)
        ]
        answers = [json.loads(call.result()[1]) for call in calls]
    assert answers == [{"number": n} for n in range(200)]


def test_many_slow_clients_take_few_threads_and_are_disconnected(server, monkeypatch):
    """Each sends a byte now and then, which a limit between two bytes would never notice."""
    monkeypatch.setattr("wmpo_jax.drive.server.IDLE_SECONDS", 0.5)
    before = threading.active_count()
    slow = [socket.create_connection(server.server_address[:2], timeout=10) for _ in range(150)]
    try:
        for _ in range(6):
            for connection in slow:
                with contextlib.suppress(OSError):  # those that were hung up on
                    connection.send(b"x")
            assert threading.active_count() - before <= CLIENTS
            time.sleep(0.3)
        assert ask(server, "GET", "/about")[0] == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_port_in_use_is_named(server):
    with pytest.raises(UserError, match="--port"):
        PlayServer(*server.server_address[:2])
    with pytest.raises(UserError, match="--port"):
        PlayServer("127.0.0.1", 99999)


def test_page_uses_only_what_it_has():
    page = (PAGE / "index.html").read_text()
    script = (PAGE / "play.js").read_text()
    for text in (page, script, (PAGE / "style.css").read_text()):
        assert not re.search(r"https?://|@import", text)
    asked = set(re.findall(r'\bat\("([\w-]+)"\)', script))
    for part in ("", "-state", "-p", "-driver", "-ms"):
        asked |= {f"real{part}", f"imagined{part}"}
    asked |= {"policy-ms", "round-ms"}
    assert set(re.findall(r'id="([\w-]+)"', page)) == asked


def test_what_is_no_workdir_is_refused(tmp_path, capsys):
    assert play.main([f"--workdir={tmp_path}", "--port=0"]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_of_an_older_version_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "config.json").write_text('{"seed": 0, "task": "press", "image_size": 32}')
    assert play.main([f"--workdir={tmp_path}", "--port=0"]) == 2
    assert "does not fit this version" in capsys.readouterr().err


def workdir_with(path, **files):
    config = load_config("configs/tiny.py:smoke").to_dict()
    (path / "config.json").write_text(files.pop("config", json.dumps(config)))
    for name, content in files.items():
        (path / "stages").mkdir(exist_ok=True)
        (path / "stages" / f"{name}.json").write_text(content)
    return path


@pytest.mark.parametrize(
    "config",
    ["[]", "{", "", "null", "3", '{"seed": "x"}', "\x00", '{"seed": NaN}', '{"mesh": 3}'],
)
def test_a_garbage_config_is_one_sentence(tmp_path, capsys, config):
    status = play.main([f"--workdir={workdir_with(tmp_path, config=config)}", "--port=0"])
    said = capsys.readouterr().err
    assert status == 2 and "config.json" in said and len(said.splitlines()) == 1


def test_garbage_results_are_one_sentence(tmp_path, capsys, monkeypatch):
    def damaged(setting):
        return {}["threshold"]

    monkeypatch.setattr("wmpo_jax.drive.worlds.open_worlds", damaged)
    assert play.main([f"--workdir={workdir_with(tmp_path)}", "--port=0"]) == 2
    said = capsys.readouterr().err
    assert "cannot be read (KeyError" in said and len(said.splitlines()) == 1
