"""Every place that takes weights or a dataset takes an address of the Hub."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.conversion import synthetic
from tests.data import builders
from tests.hub import stand_in
from tests.hub.conftest import forget
from wmpo_jax import convert
from wmpo_jax.conversion.load import load_policy
from wmpo_jax.conversion.store import Store
from wmpo_jax.data import __main__ as data_program
from wmpo_jax.data.mixture import open_mixture
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.files import save_record
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import hub_revisions


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def dataset(server, tmp_path) -> str:
    (tmp_path / "set").mkdir()
    builders.hdf5(tmp_path / "set/demos.hdf5", builders.demo)
    server.add("datasets/anna/cups", content(tmp_path / "set"))
    return "hf://anna/cups"


def test_datasets_are_called_by_their_repository(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (found,) = open_mixture(dataset).datasets
    assert found.name == "anna/cups" and len(found.episodes) == 1
    listing = tmp_path / "both.json"
    listing.write_text(json.dumps({"datasets": [{"path": dataset}]}))
    assert open_mixture(listing).datasets[0].name == "anna/cups"
    assert data_program.main(["inspect", dataset]) == 0
    assert "anna/cups" in capsys.readouterr().out and (tmp_path / "anna_cups.png").is_file()
    assert data_program.main(["inspect", "hf://anna/none"]) == 2
    assert "there is no dataset anna/none" in capsys.readouterr().err


def test_a_run_keeps_to_the_revisions_of_its_ledger(dataset, server, tmp_path, monkeypatch):
    config = ConfigDict({"seed": 0, "task": "", "data": {"source": dataset}})
    workdir = Workdir(tmp_path / "run", config)
    hub_revisions.settle(config, workdir)
    entry = {"stage": "hub", "name": dataset, "revision": stand_in.COMMIT}
    assert workdir.ledger.read() == [entry]
    server.add("datasets/anna/cups", {"other.txt": b""}, commit=stand_in.NEWER)
    forget(monkeypatch)
    hub_revisions.settle(config, workdir)
    assert workdir.ledger.read() == [entry]
    assert (hub.fetched(dataset, "dataset") / "demos.hdf5").is_file()


def test_weights_are_imported_loaded_and_uploaded(server, tmp_path, monkeypatch, capsys):
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    original = synthetic.write_folder(tmp_path / "original", "policy", weights, shards=2)
    synthetic.write_tokenizer(original, ["coffee"])
    server.add("models/me/oft", content(original))
    workdir = tmp_path / "run"
    target = workdir / "export/policy"
    flags = ["import", "--kind=policy", "--source=hf://me/oft", f"--target={target}"]
    assert convert.main(flags) == 0
    assert f"from hf://me/oft@{stand_in.COMMIT}" in capsys.readouterr().out
    server.add("models/me/ours", content(target))
    assert Store(Path("hf://me/ours")).kind.name == "policy"
    assert load_policy("hf://me/ours").policy.bins == load_policy(target).policy.bins
    monkeypatch.setenv("HF_TOKEN", "writes")
    result(workdir)
    assert convert.main(["export", f"--source={target}", "--target=hf://me/new"]) == 0
    assert "uploaded: http" in capsys.readouterr().out
    ((repo, branch, files),) = server.uploads
    assert (repo, branch) == ("me/new", "main")
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= files.keys()
    assert files["config.json"] == (original / "config.json").read_bytes()
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: wmpo_jax\npipeline_tag: robotics\n")
    assert "| wmpo, greedy | 0.900 [0.800, 0.960] | 40 |" in card
    assert "--kind=policy --source=hf://me/new" in card and "Task `press`, seed 3" in card


def result(workdir: Path) -> None:
    """Of a run whose evaluation has ended."""
    rate = {"successes": 36, "n": 40, "rate": 0.9, "wilson_low": 0.8, "wilson_high": 0.96}
    (workdir / "config.json").write_text(json.dumps({"task": "press", "seed": 3}))
    (workdir / "stages").mkdir()
    record = {"policies": {"wmpo": {"greedy": rate}}}
    save_record(workdir / "stages/evaluate.json", record)


def test_verify_and_upload_do_not_go_together(server, capsys):
    assert convert.main(["export", "--source=x", "--target=hf://me/new", "--verify"]) == 2
    assert "--verify compares with files" in capsys.readouterr().err
    assert convert.main(["import", "--kind=policy", "--source=x", "--target=hf://me/new"]) == 2
    assert "import writes a folder" in capsys.readouterr().err and not server.requests
