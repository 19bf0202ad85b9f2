"""A stand-in for the Hub's HTTP interface on 127.0.0.1: repositories are dicts of files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0f3a9c" + "0" * 34
NEWER = "1b4b0d" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Repositories by `models/owner/name` and revision; a token where `secret` names one.

    Attributes:
      files: repository -> commit -> path -> bytes.
      branches: repository -> branch -> commit.
      torn: paths that break off in the middle when they are asked for the first time.
      requests: method and path of each.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.secret: dict[str, str] = {}
        self.torn: set[str] = set()
        self.requests: list[str] = []
        self.private: list[bool] = []  # of each repository that was made
        self.uploads: list[tuple[str, str, dict[str, bytes]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        """`files` as the newest commit of branch main."""
        self.files.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})["main"] = commit


class Handler(BaseHTTPRequestHandler):
    """What huggingface_hub asks for downloads of a snapshot and for an upload of small files."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        asked = r"api/((?:models|datasets)/[^/]+/[^/]+)/(revision|tree)/(.+)"
        if match := re.fullmatch(asked, path):
            self._describe(*match.groups())
        elif match := re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(f"{match[1] or 'models/'}{match[2]}", match[3], match[4], body)
        else:
            self._json(404, {"error": "no such page"})

    def _commit(self, repo: str, revision: str) -> str | None:
        if repo not in self.server.files:
            self._json(401, {"error": "Repository not found"}, code="RepoNotFound")
            return None
        wanted = self.server.secret.get(repo)
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            self._json(401, {"error": "Invalid credentials"}, code="RepoNotFound")
            return None
        commit = self.server.branches[repo].get(revision, revision)
        if commit not in self.server.files[repo]:
            self._json(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
            return None
        return commit

    def _describe(self, repo: str, what: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        files = self.server.files[repo][commit]
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            self._json(200, {"id": repo.split("/", 1)[1], "sha": commit, "siblings": siblings})
            return
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in files.items()
        ]
        self._json(200, entries)

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        content = self.server.files[repo][commit].get(name)
        if content is None:
            self._json(404, {"error": "Entry not found"}, code="EntryNotFound")
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body and name in self.server.torn:
            self.server.torn.discard(name)
            self.wfile.write(content[start : len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content[start:])

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"POST {path}")
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer writes":
            self._json(403, {"error": "You may not write here"})
        elif path == "api/repos/create":
            asked = json.loads(sent)
            self.server.private.append(asked.get("private") or asked.get("visibility") == "private")
            url = f"{self.server.url}/{asked['organization']}/{asked['name']}"
            self._json(200, {"url": url})
        elif path.startswith("api/validate-yaml"):
            self._json(200, {"warnings": [], "errors": []})
        elif match := re.fullmatch(r"api/models/(.+)/preupload/(.+)", path):
            files = json.loads(sent)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._json(200, {"files": [{"path": file["path"], **mode} for file in files]})
        elif re.fullmatch(r"api/models/(.+)/branch/(.+)", path):
            self._json(200, {})
        elif match := re.fullmatch(r"api/models/(.+)/commit/(.+)", path):
            self._store(match[1], match[2], sent)
        else:
            self._json(404, {"error": f"no such call {path}"})

    def _store(self, repo: str, revision: str, sent: bytes) -> None:
        lines = [json.loads(line) for line in sent.splitlines() if line.strip()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        self.server.uploads.append((repo, revision, files))
        url = f"{self.server.url}/{repo}/commit/{NEWER}"
        self._json(200, {"success": True, "commitOid": NEWER, "commitUrl": url, "hookOutput": ""})

    def _json(self, status: int, content: Any, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
