"""Converts PyTorch's checkpoints to ours and back.

    python -m wmpo_jax.convert import --kind=policy --source=openvla_folder --target=policy --verify
    python -m wmpo_jax.convert export --source=policy --target=openvla_folder
    python -m wmpo_jax.convert export --source=runs/mine/export/policy --target=hf://me/policy

Exit status: 0 done, 2 an error that the user can correct.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import UserError

KINDS = ("policy", "world_model", "autoencoder", "reward")


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.convert", allow_abbrev=False)
    parser.add_argument("direction", choices=("import", "export"))
    parser.add_argument("--kind", choices=KINDS, help="import: what the weights are")
    parser.add_argument("--source", required=True, type=_path, help="folder or file to read")
    parser.add_argument("--target", required=True, type=_path, help="folder or file to write")
    parser.add_argument("--verify", action="store_true", help="compare with PyTorch on one input")
    try:
        run(parser.parse_args(argv))
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    return 0


def _path(text: str) -> Path:
    """A leading ~ is the home folder: after `--source=` shells leave it as it is."""
    path = os.path.expanduser(text)
    if path.startswith("~") or not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no folder: give a whole path")
    return Path(path)


def run(flags: argparse.Namespace) -> None:
    environment.prepare()
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax.conversion import importing, kinds, publishing, store
    from wmpo_jax.runtime import hub

    interrupts.raise_from_now_on()
    if flags.verify and hub.is_address(flags.target):
        raise UserError("--verify compares with files: export to a folder first, then upload.")
    if flags.direction == "import":
        if hub.is_address(flags.target):
            raise UserError("import writes a folder: give its path as --target.")
        if flags.kind is None:
            raise UserError(f"import needs --kind, one of {', '.join(KINDS)}.")
        print(importing.import_checkpoint(kinds.KINDS[flags.kind], flags.source, flags.target))
        ours, theirs = flags.target, hub.fetched(flags.source, "model")
    else:
        source = store.Store(flags.source)
        if flags.kind not in (None, source.kind.name):
            raise UserError(f"{flags.source} is a {source.kind.name}, not a {flags.kind}.")
        print(publishing.export(source, flags.target))
        ours, theirs = flags.source, flags.target
    if flags.verify:
        compare(ours, theirs)


def compare(ours: Path, theirs: Path) -> None:
    """Compares with PyTorch, which is imported for this alone: it takes hundreds of MB."""
    from wmpo_jax.conversion import store, torch_files

    torch_files.require_torch()
    from wmpo_jax.conversion import verify

    print(verify.compare(store.Store(ours), theirs))


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
