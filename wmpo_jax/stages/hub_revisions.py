"""Addresses of the Hugging Face Hub in a config: a run keeps to the revisions it began with."""

from ml_collections import ConfigDict

from wmpo_jax.runtime import hub, validation
from wmpo_jax.runtime.workdir import Workdir

ENTRY = "hub"  # of the ledger, as if it were a stage


def settle(config: ConfigDict, workdir: Workdir) -> None:
    """Downloads what the config names and records each commit in the ledger, before any stage.

    A run that is continued gets the commits of its ledger, whatever a branch has become.

    Raises:
      UserError: see `hub.fetched`.
    """
    hub.pin({e["name"]: e["revision"] for e in workdir.ledger.read() if e["stage"] == ENTRY})
    for field, path in validation.paths(config).items():
        if hub.is_address(path):
            hub.fetched(path, "dataset" if field == "data.source" else "model")
    record(workdir)


def record(workdir: Workdir) -> None:
    """Adds to the ledger what has been used since; a mixture's file may name addresses, too."""
    known = {e["name"] for e in workdir.ledger.read() if e["stage"] == ENTRY}
    for address, revision in hub.used().items():
        if address not in known:
            workdir.ledger.append(ENTRY, address, revision=revision)
