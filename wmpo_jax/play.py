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
    from ml_collections import ConfigDict

    from wmpo_jax.assembly.environment import make_task
    from wmpo_jax.assembly.trained import TrainedRun
    from wmpo_jax.drive.session import Session
    from wmpo_jax.drive.starts import stored_starts
    from wmpo_jax.drive.worlds import open_worlds
    from wmpo_jax.runtime import mesh
    from wmpo_jax.runtime.workdir import Workdir

    config = _stored_config(path / "config.json")
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    try:
        workdir = Workdir(path, config)
        run = TrainedRun(config, workdir, mesh.make_mesh(config), make_task(config))
        worlds, starts = open_worlds(run), stored_starts(run)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a file's content
        raise UserError(
            f"The results in {path} cannot be read ({type(error).__name__}: {str(error)[:200]}): "
            "they are damaged or of another version; repeat the stages that wrote them."
        ) from error
    session = Session(worlds, starts, path.resolve().name)
    session.warm_up()
    return session


def _stored_config(stored: Path) -> Any:
    from ml_collections import ConfigDict

    from wmpo_jax.runtime import validation
    from wmpo_jax.runtime.files import load_json

    if not stored.is_file():
        raise UserError(f"{stored.parent} is no workdir of a run: it has no config.json.")
    content = load_json(stored)
    if not isinstance(content, dict):
        raise UserError(f"{stored} is damaged, it holds no fields: start a new workdir.")
    try:
        validation.check(content, "of it", stored=True)
    except UserError as error:
        raise UserError(
            f"{stored} does not fit this version of wmpo_jax ({str(error).rstrip('.')}): start a "
            "new workdir, or drive this one with the version that made it."
        ) from error
    return ConfigDict(content)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # while Python starts again
    environment.restart_with_huge_pages()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.exit(interrupts.run(main))
