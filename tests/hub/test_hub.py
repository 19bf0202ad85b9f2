"""hf:// addresses against a stand-in for the Hub: what is fetched, and what failures say."""

import sys

import numpy as np
import pytest
from huggingface_hub import constants

from tests.hub import stand_in
from tests.hub.conftest import forget
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import resolve

FILES = {
    "a.txt": b"a" * 5000,
    "config.json": b"{}",
    "sub/config.json": b"{}",
    "sub/folder/b.txt": b"b",
    "sub/c[1].txt": b"c",
}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://me/x", ("model", "me/x", None, "")),
        ("hf:/me/x", ("model", "me/x", None, "")),  # as pathlib makes it
        ("hf://me/x@v1.0/sub/folder/", ("model", "me/x", "v1.0", "sub/folder")),
        ("hf://datasets/me/x@refs/pr/3/sub", ("dataset", "me/x", "refs/pr/3", "sub")),
        ("hf://models/me/x@feature%2Fy", ("model", "me/x", "feature/y", "")),
    ],
)
def test_addresses(text, parts):
    assert hub.parse(text, "model")[1:] == parts


@pytest.mark.parametrize(
    "text", ["hf://", "hf://me", "hf://datasets/me", "hf:///x", "hf://me/x@", "hf://me/x/../y"]
)
def test_what_is_no_address(text, server):
    with pytest.raises(UserError, match=r"is no address of the Hugging Face Hub: write hf://owner"):
        hub.fetched(text, "model")
    assert server.requests == []


def test_a_local_path_is_left_alone(server):
    assert str(hub.fetched("runs/x", "model")) == "runs/x" and server.requests == []


def test_only_the_named_folder_is_downloaded_and_once(server):
    server.add("models/me/x", FILES)
    folder = hub.fetched("hf://me/x/sub", "model")
    assert (folder / "folder/b.txt").read_bytes() == b"b"
    assert {path.name for path in folder.parent.iterdir()} == {"sub"}
    assert hub.origin(folder) == f"hf://me/x@{stand_in.COMMIT}/sub"
    assert hub.name(folder) == "me/x/sub" and hub.name("/home/x") == hub.origin("/home/x") == ""
    asked = len(server.requests)
    assert hub.fetched("hf://me/x/sub", "model") == folder and len(server.requests) == asked
    assert hub.fetched("hf://me/x/sub/c[1].txt", "model").read_bytes() == b"c"


def test_a_file_of_weights_comes_with_what_describes_it(server):
    server.add("models/me/x", FILES)
    file = hub.fetched("hf://me/x/a.txt", "model")
    assert file.read_bytes() == FILES["a.txt"] and (file.parent / "config.json").is_file()
    assert not (file.parent / "sub/folder").exists()


def test_a_revision_stays_what_it_was(server, monkeypatch):
    server.add("datasets/me/x", FILES)
    hub.fetched("hf://me/x", "dataset")
    before = hub.used()
    assert before == {"hf://me/x": stand_in.COMMIT}
    server.add("datasets/me/x", {"a.txt": b"newer"}, commit=stand_in.NEWER)
    assert (hub.fetched("hf://me/x", "dataset") / "a.txt").read_bytes() == FILES["a.txt"]
    forget(monkeypatch)
    hub.pin(before)
    assert (hub.fetched("hf://me/x", "dataset") / "a.txt").read_bytes() == FILES["a.txt"]
    forget(monkeypatch)
    assert (hub.fetched("hf://me/x", "dataset") / "a.txt").read_bytes() == b"newer"


def test_mistakes_are_one_sentence_each(server, monkeypatch):
    server.add("models/me/x", FILES)
    server.add("models/me/secret", FILES)
    server.secret["models/me/secret"] = "right"
    cases = {
        "hf://me/none": "there is no model me/none that this token may use",
        "hf://me/x@v9": "me/x has no revision 'v9', correct it",
        "hf://me/x/none": "the model me/x has no none at revision 0f3a9c",
        "hf://me/secret": "there is no model me/secret that this token may use; correct the name",
    }
    monkeypatch.setenv("HF_TOKEN", "wrong")
    for address, sentence in cases.items():
        with pytest.raises(UserError) as refusal:
            hub.fetched(address, "model")
        assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    monkeypatch.setenv("HF_TOKEN", "right")
    assert hub.fetched("hf://me/secret", "model").is_dir()


def test_offline_the_cache_answers_and_what_is_not_in_it_is_refused(server, monkeypatch):
    server.add("models/me/x", FILES)
    folder = hub.fetched("hf://me/x/sub", "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget(monkeypatch)
    assert hub.fetched("hf://me/x/sub", "model") == folder
    for address in ("hf://me/x", "hf://me/y"):  # half of it, nothing of it
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and not all of it is in the"):
            hub.fetched(address, "model")


def test_without_a_network_it_is_said(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the Hub does not answer") as refusal:
        hub.fetched("hf://me/x", "model")
    assert "\n" not in str(refusal.value)


def test_a_download_that_broke_off_is_continued(server, monkeypatch):
    content = np.random.default_rng(0).bytes(200_000)
    server.add("models/me/x", {"weights.bin": content})
    server.torn.add("weights.bin")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    try:
        folder = hub.fetched("hf://me/x", "model")
    except UserError as refusal:  # huggingface_hub may or may not try again by itself
        assert "downloads continue where they stopped" in str(refusal)
        folder = hub.fetched("hf://me/x", "model")
    assert (folder / "weights.bin").read_bytes() == content


def test_upload_makes_a_private_repository_and_one_commit(server, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/model.safetensors").write_bytes(b"123")
    with pytest.raises(UserError, match="was not uploaded: there is no model me/x that this token"):
        hub.upload(tmp_path / "made", "hf://me/x", "message")
    monkeypatch.setenv("HF_TOKEN", "writes")
    page = hub.upload(tmp_path / "made", "hf://me/x@trial/sub", "message")
    assert page.endswith(f"/me/x/commit/{stand_in.NEWER}")
    assert server.private == [True]
    assert server.uploads == [("me/x", "trial", {"sub/model.safetensors": b"123"})]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'wmpo_jax\[hub\]'"):
        hub.fetched("hf://me/x", "model")


def test_a_path_in_the_cache_that_is_behind_a_link_has_its_address(server):
    server.add("models/me/x", FILES)
    assert resolve(hub.fetched("hf://me/x", "model")).is_dir()
