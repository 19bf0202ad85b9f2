"""A stand-in for the Hub, and a cache of its own for every test."""

from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from tests.hub import stand_in
from wmpo_jax.runtime import hub


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[stand_in.Hub]:
    """What huggingface_hub takes for the Hub; it reads these settings when it is imported."""
    with stand_in.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        pages = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pages)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        forget(monkeypatch)
        yield running


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process would know: nothing."""
    monkeypatch.setattr(hub, "_fetched", {})
    monkeypatch.setattr(hub, "_revisions", {})
