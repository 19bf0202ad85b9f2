"""The server answers the page, refuses strangers, and survives nonsense."""

import http.client
import json
import os
import re
import threading

import pytest

from wmpo_jax import play
from wmpo_jax.drive.server import MAX_BODY, PAGE, PlayServer
from wmpo_jax.runtime.errors import UserError

JSON = {"Content-Type": "application/json"}


class Echo:
    """A driver that repeats what it is told."""

    def about(self):
        return {"task": "echo"}

    def reset(self, request):
        return request

    def step(self, request):
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


@pytest.mark.parametrize("body", ["", "{", "[]", "3", "\xff", "{}" + " " * MAX_BODY])
def test_nonsense_is_refused_and_the_server_goes_on(server, body):
    status, answer, _ = ask(server, "POST", "/reset", body.encode("latin-1"))
    assert status == 400 and "error" in json.loads(answer)
    assert ask(server, "GET", "/about")[0] == 200


@pytest.mark.parametrize("path", ["/../session.py", "/page/index.html", "/.git/config", "/reset"])
def test_nothing_else_is_served(server, path):
    assert ask(server, "GET", path)[0] == 404


def test_other_pages_of_the_browser_cannot_drive(server):
    """A form cannot send JSON, and a name that was rebound to 127.0.0.1 is not ours."""
    assert ask(server, "POST", "/reset", "{}", {"Content-Type": "text/plain"})[0] == 400
    assert ask(server, "POST", "/reset", "{}", {**JSON, "Host": "evil.example:80"})[0] == 403
    assert ask(server, "GET", "/about", headers={"Host": "[::1]:80"})[0] == 200


def test_port_in_use_is_the_users_to_mend(server):
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


def test_door_refuses_what_is_no_workdir(tmp_path, capsys):
    assert play.main([f"--workdir={tmp_path}", "--port=0"]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_of_an_older_version_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "config.json").write_text('{"seed": 0, "task": "press", "image_size": 32}')
    assert play.main([f"--workdir={tmp_path}", "--port=0"]) == 2
    assert "does not fit this version" in capsys.readouterr().err
