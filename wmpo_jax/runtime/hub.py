"""Addresses of the Hugging Face Hub wherever a path is taken: `hf://owner/name[@revision][/sub]`.

`fetched` is the one place that resolves them, through huggingface_hub: its cache, its resumed
downloads, its token (`hf auth login` or HF_TOKEN), HF_HUB_OFFLINE and HF_ENDPOINT. What an address
meant once it means to the end of the process, and to the end of a run (`pin`).
"""

import glob
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.extras import require

Kind = Literal["model", "dataset"]

_ADDRESS = re.compile(
    r"hf:/{1,2}(?:(?P<kind>datasets|models)/)?(?P<repo>(?!datasets/|models/)[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>(?:refs/(?:convert|pr)/)?[^/]+))?(?:/(?P<sub>.*))?"
)
_CACHED = re.compile(
    r"/(?P<kind>datasets|models)--(?P<repo>[^/]+?--[^/]+)/snapshots/(?P<commit>\w+)(?P<sub>/.*)?$"
)
_fetched: dict[tuple[str, Kind], Path] = {}
_revisions: dict[str, str] = {}  # address: commit


class Address(NamedTuple):
    """A parsed address; `sub` is "" for the whole repository."""

    text: str
    kind: Kind
    repo: str
    revision: str | None
    sub: str


def is_address(path: str | Path) -> bool:
    """Whether a path is an address of the Hub; pathlib may have made one slash of two."""
    return str(path).startswith("hf:/")


def parse(path: str | Path, kind: Kind) -> Address:
    """The parts of an address.

    Args:
      kind: of the repository where the address does not say it (`hf://datasets/owner/name`).

    Raises:
      UserError: it is no such address.
    """
    text = re.sub(r"^hf:/{1,2}(?!/)", "hf://", str(path))
    found = _ADDRESS.fullmatch(text)
    sub = (found["sub"] or "").strip("/") if found else ""
    if not found or ".." in PurePosixPath(sub).parts:
        raise UserError(
            f"{text} is no address of the Hugging Face Hub: write hf://owner/name, "
            "hf://owner/name@revision or hf://owner/name/sub/folder."
        )
    if found["kind"]:
        kind = "dataset" if found["kind"] == "datasets" else "model"
    revision = unquote(found["revision"]) if found["revision"] else None
    return Address(text, kind, found["repo"], revision, sub)


def fetched(path: str | Path, kind: Kind) -> Path:
    """The local copy of what an address names; any other path is given back as it is.

    Raises:
      UserError: the repository, revision or folder is not there or not for this token, or the
        network is not.
    """
    if not is_address(path):
        return Path(path)
    address = parse(path, kind)
    key = (address.text, address.kind)
    if key not in _fetched:
        _fetched[key] = _download(address)
        found = _CACHED.search(_fetched[key].as_posix())
        if found:
            _revisions[address.text] = found["commit"]
    return _fetched[key]


def pin(revisions: Mapping[str, str]) -> None:
    """Makes addresses mean the commits that they meant before: what `used` gave."""
    _revisions.update(revisions)


def used() -> dict[str, str]:
    """The commit that every address has meant so far."""
    return {text: _revisions[text] for text, _ in _fetched if text in _revisions}


def origin(path: str | Path) -> str:
    """The address, with its commit, of a path in the Hub's cache; "" of any other path."""
    found = _CACHED.search(Path(path).as_posix())
    if not found:
        return ""
    repo = found["repo"].replace("--", "/", 1)
    return f"hf://{repo}@{found['commit']}{found['sub'] or ''}"


def name(path: str | Path) -> str:
    """`owner/name[/sub/folder]` of a path in the Hub's cache; "" of any other path."""
    found = _CACHED.search(Path(path).as_posix())
    return found["repo"].replace("--", "/", 1) + (found["sub"] or "") if found else ""


def upload(folder: Path, path: str | Path, message: str) -> str:
    """Uploads a folder to the model repository of an address, as one commit; gives its page.

    A repository that does not exist is made, private; so is a branch.

    Raises:
      UserError: not allowed with this token, or no network.
    """
    hub, address = _library(), parse(path, "model")
    api = hub.HfApi()
    try:
        api.create_repo(address.repo, repo_type=address.kind, private=True, exist_ok=True)
        if address.revision:
            api.create_branch(
                address.repo, repo_type=address.kind, branch=address.revision, exist_ok=True
            )
        commit = api.upload_folder(
            repo_id=address.repo,
            repo_type=address.kind,
            folder_path=folder,
            path_in_repo=address.sub or None,
            revision=address.revision,
            commit_message=message,
        )
    except (OSError, ValueError, hub.errors.HTTPError) as error:
        raise UserError(_reason(address, error, "uploaded")) from error
    return str(commit.commit_url)


def _download(address: Address) -> Path:
    hub = _library()
    wanted = _patterns(address)
    try:
        snapshot = hub.snapshot_download(
            address.repo,
            repo_type=address.kind,
            revision=_revisions.get(address.text, address.revision),
            allow_patterns=wanted,
        )
    except (OSError, ValueError, hub.errors.HTTPError) as error:
        raise UserError(_reason(address, error, "downloaded")) from error
    local = Path(snapshot, address.sub)
    if not local.exists():
        raise UserError(
            f"{address.text} is not there: the {address.kind} {address.repo} has no "
            f"{address.sub or 'files'} at revision {Path(snapshot).name[:12]}."
        )
    return local


def _patterns(address: Address) -> list[str] | None:
    """What is downloaded: a folder or a file; of weights with the JSON files that describe them."""
    if not address.sub:
        return None
    sub = glob.escape(address.sub)
    patterns, path = [sub, f"{sub}/*"], PurePosixPath(address.sub)
    if address.kind == "model" and path.suffix:
        folder = "" if path.parent.name == "" else f"{glob.escape(str(path.parent))}/"
        patterns.append(f"{folder}*.json")
    return patterns


def _library() -> Any:
    return require("huggingface_hub", "hub", "An address of the Hugging Face Hub")


def _reason(address: Address, error: Exception, done: str) -> str:
    """What went wrong and what to do, in one sentence."""
    errors = _library().errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    where = f"{address.text} was not {done}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where}: {address.repo} has no revision {address.revision!r}, correct it."
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{where}: access to {address.repo} is granted on its page, and with a token of that "
            "account (hf auth login, or HF_TOKEN)."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return (
            f"{where}: there is no {address.kind} {address.repo} that this token may use; correct "
            "the name, or give a token (hf auth login, or HF_TOKEN)."
        )
    if isinstance(error, errors.HFValidationError):
        return f"{where}: {_first_line(error)}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{where}: the Hub does not answer or HF_HUB_OFFLINE is set, and not all of it is in "
            "the cache; connect to the network and repeat, downloads continue where they stopped."
        )
    again = ", downloads continue where they stopped" if done == "downloaded" else ""
    return f"{where} ({_first_line(error).rstrip('.')}): repeat the command{again}."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
