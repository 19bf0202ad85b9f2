"""Serves a policy to robots and evaluators that speak openpi's websocket protocol.

    python -m wmpo_jax.serve --workdir=runs/tiny
    python -m wmpo_jax.serve --checkpoint=ckpt/policy --statistics=libero_spatial

Exit status: 0 ended by Ctrl-C or SIGTERM, 2 an error that the user can correct.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import resolve

TOKEN = "WMPO_TOKEN"


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.serve", allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", help="of a run whose policy is trained")
    what.add_argument("--checkpoint", help="folder that convert import --kind=policy made")
    parser.add_argument(
        "--stage", choices=("sft", "improve"), help="whose policy; default the newest of the run"
    )
    parser.add_argument("--statistics", help="of a checkpoint: which ones un-normalize actions")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets the whole network in")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    parser.add_argument("--batch", type=_positive, default=8, help="most requests computed at once")
    parser.epilog = f"Clients need a token when the environment variable {TOKEN} holds one."
    try:
        run(parser.parse_args(argv))
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(flags: argparse.Namespace) -> None:
    """Claims the address, loads, compiles, answers until it is stopped."""
    for flag, of in (("stage", "workdir"), ("statistics", "checkpoint")):
        if getattr(flags, flag) and getattr(flags, of) is None:
            raise UserError(f"--{flag} belongs to --{of}: leave it out.")
    environment.prepare()
    from wmpo_jax.runtime.extras import require

    require("websockets", "serve", "Serving a policy")
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax.serving import server

    taken = server.claimed(flags.host, flags.port)
    with taken:
        served = server.PolicyServer(open_policy(flags), flags.batch, os.environ.get(TOKEN, ""))
        print("compiling", file=sys.stderr, flush=True)
        served.warm_up()
        server.serve_forever(served, taken)


def open_policy(flags: argparse.Namespace) -> Any:
    """What the flags name, as a `serving.policies.ServedPolicy`."""
    from wmpo_jax.assembly.opened import open_run, readable
    from wmpo_jax.serving.policies import CheckpointPolicy, RunPolicy

    if flags.checkpoint is not None:
        return CheckpointPolicy(resolve(flags.checkpoint), flags.statistics)
    path = resolve(flags.workdir)
    with readable(path):
        trained = open_run(path)
        newest = "improve" if trained.workdir.done("improve") else "sft"
        return RunPolicy(trained, flags.stage or newest, path.name)


if __name__ == "__main__":
    environment.restart_with_huge_pages()
    sys.exit(main(sys.argv[1:]))
