"""Drives the world model of a run by hand, beside the real simulator.

    python -m wmpo_jax.play --workdir=runs/tiny

opens a local page that keys and an on-screen stick drive. Exit status: 0 done, 2 the user can
correct it.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import resolve


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.play", allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="of a run with a world model")
    parser.add_argument("--port", type=int, default=8010, help="0 takes any free port")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets the whole network in")
    flags = parser.parse_args(argv)
    try:
        serve(resolve(flags.workdir), flags.host, flags.port)
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    return 0


def serve(workdir: Path, host: str, port: int) -> None:
    """Answers until Ctrl-C."""
    environment.prepare()
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax.drive.server import PlayServer

    with PlayServer(host, port) as server:
        print(f"{workdir}: loading and compiling, about a minute", flush=True)
        server.driver = open_session(workdir)
        print(f"open {server.url} (Ctrl-C ends)", flush=True)
        interrupts.raise_from_now_on()  # not before: modules are imported until here
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


def open_session(path: Path) -> Any:
    """The session of a workdir, everything compiled.

    Raises:
      UserError: not a workdir, one of an older version, damaged, or its world model has not been
        trained.
    """
    from wmpo_jax.assembly.opened import open_run, readable
    from wmpo_jax.drive.session import Session
    from wmpo_jax.drive.starts import stored_starts
    from wmpo_jax.drive.worlds import open_worlds

    with readable(path):
        run = open_run(path)
        worlds, starts = open_worlds(run), stored_starts(run)
    session = Session(worlds, starts, path.resolve().name)
    session.warm_up()
    return session


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # while Python starts again
    environment.restart_with_huge_pages()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.exit(interrupts.run(main))
