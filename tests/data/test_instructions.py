"""Instructions of every type that datasets keep them in: the instruction, or a sentence."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data import builders
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import BadEpisode, ReadOptions
from wmpo_jax.data.instructions import phrasing, sentence
from wmpo_jax.runtime.errors import UserError

LIBERO = ("problem_info", "language_instruction")


def attribute(name: str, value, place: str = "data/demo_0"):
    def build(file):
        builders.demo(file)
        file[place].attrs[name] = value

    return build


def array(value):
    def build(file):
        builders.demo(file)["language_instruction"] = value

    return build


HDF5 = {
    "array beside the actions": array(b"lift it"),
    "array, one for each step": array(np.array([b"lift it"] * builders.STEPS)),
    "text": attribute("language_instruction", "lift it"),
    "fixed-length bytes": attribute("language_instruction", np.bytes_("lift it")),
    "array of one": attribute("language_instruction", np.array(["lift it"], h5py.string_dtype())),
    "array of fixed-length bytes": attribute("language_instruction", np.array([b"lift it"])),
    "quoted": attribute("language_instruction", '"lift it"'),
    "of all demonstrations": attribute("language_instruction", b"lift it", "data"),
    "of the file": attribute("language_instruction", b"lift it", "/"),
    "LIBERO": attribute(LIBERO[0], json.dumps({LIBERO[1]: "lift it"}), "data"),
    "LIBERO, bytes": attribute(LIBERO[0], json.dumps({LIBERO[1]: ["lift it"]}).encode(), "data"),
    "LIBERO, words": attribute(LIBERO[0], json.dumps({LIBERO[1]: ["lift", "it"]}), "data"),
    "LIBERO, letters": attribute(LIBERO[0], json.dumps({LIBERO[1]: list("lift it")}), "data"),
    "RoboCasa": attribute("ep_meta", json.dumps({"lang": "lift it", "layout_id": 3})),
    "robomimic": attribute("env_args", json.dumps({"env_lang": "lift it"}), "data"),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5(tmp_path, kind):
    path = builders.hdf5(tmp_path / "set.hdf5", HDF5[kind])
    assert open_dataset(path).episodes[0].instruction == "lift it"


def test_every_demonstration_has_its_own(tmp_path):
    def build(file):
        for number, text in enumerate(("close the drawer", "open the door")):
            builders.demo(file, number).attrs["ep_meta"] = json.dumps({"lang": text})

    found = open_dataset(builders.hdf5(tmp_path / "set.hdf5", build))
    assert [e.instruction for e in found.episodes] == ["close the drawer", "open the door"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("language_instruction", np.bytes_(b"W\xfcrfel nehmen"), "text that is not UTF-8"),
        ("language_instruction", 7, "where text belongs"),
        ("ep_meta", "{lang", "ep_meta that is not JSON"),
    ],
)
def test_hdf5_without_meaning(tmp_path, name, value, reason):
    path = builders.hdf5(tmp_path / "set.hdf5", attribute(name, value))
    with pytest.raises(UserError, match=f"No episode of .* can be used, the first: .*{reason}"):
        open_dataset(path)


def test_no_instruction_is_reported_and_can_be_given(tmp_path):
    path = builders.hdf5(tmp_path / "set.hdf5", builders.demo)
    with pytest.warns(UserWarning, match="1 of 1 episodes have no instruction"):
        open_dataset(path)
    found = open_dataset(path, ReadOptions(instruction="lift it"))
    assert found.episodes[0].instruction == "lift it"


def rlds(folder: Path, kind: str) -> Path:
    import tensorflow_datasets as tfds

    text, tensor = tfds.features.Text(), tfds.features.Tensor
    picture = tfds.features.Image(shape=(32, 32, 3), encoding_format="png")
    key, pixels = "language_instruction", builders.pictures()
    if kind == "tensor":
        fields = {key: tensor(shape=(1,), dtype=np.str_)}
        return builders.rlds(
            folder, fields=fields, step=lambda k: {key: np.array(["lift it"], object)}
        )
    if kind == "phrasings":
        fields = {key: tfds.features.Sequence(text)}
        return builders.rlds(folder, fields=fields, step=lambda k: {key: ["lift it", "take it"]})
    if kind == "words":
        fields = {key: tfds.features.Sequence(text)}
        return builders.rlds(folder, fields=fields, step=lambda k: {key: ["lift", "take"]})
    if kind == "DROID":
        fields = {f"{key}{end}": text for end in ("", "_2", "_3")}
        filled = {key: "", f"{key}_2": "lift it", f"{key}_3": "take it"}
        return builders.rlds(folder, fields=fields, step=lambda k: filled)
    if kind == "observation":
        return builders.rlds(
            folder,
            fields={},
            step=lambda k: {},
            observation={"image": picture, "natural_language_instruction": text},
            seen=lambda k: {"image": pixels[k], "natural_language_instruction": "lift it"},
        )
    texts = {
        "later": lambda k: "lift it" if k > 2 else "",
        "changing": lambda k: "lift it" if k > 2 else "open it",
        "Latin-1": lambda k: "Würfel nehmen".encode("latin-1"),
    }
    return builders.rlds(folder, step=lambda k: {key: texts[kind](k)})


@pytest.mark.parametrize("kind", ["tensor", "phrasings", "DROID", "observation", "later"])
def test_rlds(tmp_path, kind):
    assert open_dataset(rlds(tmp_path, kind)).episodes[0].instruction == "lift it"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("words", "words of one sentence or several instructions"),
        ("changing", "changes its instruction at step 3, from 'open it' to 'lift it'"),
        ("Latin-1", "text that is not UTF-8"),
    ],
)
def test_rlds_without_meaning(tmp_path, kind, reason):
    with pytest.raises(UserError, match=reason):
        open_dataset(rlds(tmp_path, kind))


def test_lists():
    assert sentence([b"pick", "up", np.str_("it")], "here") == "pick up it"
    assert sentence([["push the plate"], ["move it away"]], "here") == "push the plate"
    assert sentence(None, "here") == phrasing([], "here") == ""
    assert phrasing(["go", "go"], "here") == "go"
    with pytest.raises(BadEpisode, match="'go', 'walk'"):
        phrasing(["go", "walk"], "here")
