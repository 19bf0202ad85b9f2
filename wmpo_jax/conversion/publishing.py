"""Exports to a folder, a file or the Hugging Face Hub, there with a model card."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmpo_jax.conversion import exporting
from wmpo_jax.conversion.store import Store
from wmpo_jax.conversion.summary import Summary
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.files import load_json, load_record

CARD = "README.md"
TITLES = {
    "policy": "Vision-language-action policy",
    "world_model": "Video world model",
    "autoencoder": "Autoencoder of frames",
    "reward": "Reward model of videos",
}


def export(source: Store, target: Path) -> Summary | str:
    """`exporting.export_checkpoint`; to `hf://owner/name[@branch][/folder]` with a model card.

    Raises:
      UserError: see `exporting.export_checkpoint` and `hub.upload`.
    """
    if not hub.is_address(target):
        return exporting.export_checkpoint(source, target)
    address = hub.parse(target, "model")
    with tempfile.TemporaryDirectory(prefix="wmpo_jax_") as scratch:
        folder = Path(scratch, "export")
        summary = exporting.export_checkpoint(source, folder)
        (folder / CARD).write_text(model_card(source, address, summary))
        page = hub.upload(folder, target, f"{TITLES[source.kind.name]} exported by wmpo_jax")
    return f"{summary}\nuploaded: {page}"


def model_card(source: Store, address: hub.Address, summary: Summary) -> str:
    """Markdown: what it is, how a run has scored with it, and the command that loads it."""
    kind = source.kind.name
    lines = [
        "---",
        "library_name: wmpo_jax",
        *(["pipeline_tag: robotics"] if kind == "policy" else []),
        "tags:",
        "- robotics",
        "- wmpo",
        "---",
        "",
        f"# {TITLES[kind]}: {address.repo.split('/')[1]}",
        "",
        f"{summary.tensors} tensors with {summary.parameters:,} parameters, under the names of the "
        "PyTorch original. Exported by wmpo_jax, which reads it with",
        "",
        f"    python -m wmpo_jax.convert import --kind={kind} --source={address.text} "
        f"--target=ckpt/{kind}",
        "",
        *_results(source.folder),
    ]
    return "\n".join(lines) + "\n"


def _results(folder: Path) -> Iterator[str]:
    """What the run that a checkpoint was exported from has measured."""
    workdir = Path(os.path.abspath(folder)).parents[1]
    if not (workdir / "config.json").is_file() or not (workdir / "stages").is_dir():
        yield "It was not exported from a run (`--stages=export`), so no results are known."
        return
    config = load_json(workdir / "config.json")
    task = config.get("task") or "recorded data"
    yield f"## The run\n\nTask `{task}`, seed {config.get('seed')}."
    results = {
        stage: load_record(workdir / "stages" / f"{stage}.json", stage)
        for stage in ("gates", "evaluate", "evaluate_imported")
        if (workdir / "stages" / f"{stage}.json").is_file()
    }
    rows = list(_rates(results))
    if not rows:
        yield "It was not evaluated."
        return
    yield "\n## Success in the real environment\n\nHeld-out starts, 95 % Wilson intervals.\n"
    yield "| policy | success | n |\n|---|---|---|"
    for label, rate in rows:
        low, high = rate["wilson_low"], rate["wilson_high"]
        yield f"| {label} | {rate['rate']:.3f} [{low:.3f}, {high:.3f}] | {rate['n']} |"


def _rates(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    evaluated = results.get("evaluate", {}).get("policies", {})
    for policy, modes in evaluated.items():
        for mode, rate in modes.items():
            yield f"{policy}, {mode}", rate
    if "evaluate_imported" in results:
        yield "as imported", results["evaluate_imported"]["overall"]
