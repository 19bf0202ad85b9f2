"""Runs the stages of a config in order, each once, in a workdir.

    python -m wmpo_jax.main --config=configs/tiny.py --config.improve.iterations=3

Exit status: 0 done, 2 for what the user can correct, 75 stopped on request or because another host
was lost (the same command continues), 130 ended by Ctrl-C before it ran or by a second one.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # until `preemption.install`
    interrupts.exit_at_once()

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import HostLost, Preempted, UserError


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.main", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="configs/tiny.py or configs/tiny.py:smoke")
    parser.add_argument("--workdir", help="where the run lives; default runs/<config's name>")
    parser.add_argument("--stages", help="only these, such as demos,sft; default all")
    parser.add_argument("--base", help="a run whose stages before the first change are taken over")
    parser.add_argument("--cluster", action="store_true", help="TPU pod or Slurm: join the hosts")
    parser.epilog = "Any field of the config: --config.improve.iterations=3"
    flags, rest = parser.parse_known_args(argv)
    try:
        run(flags, rest)
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    except HostLost as loss:
        print(f"wmpo_jax: {loss}", file=sys.stderr, flush=True)
        os._exit(75)  # an orderly exit would wait for the host that is gone
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        print(
            f"wmpo_jax: {error.filename or 'A file'} could not be written ({error.strerror}): make "
            "room or lift the limit, then the same command continues.",
            file=sys.stderr,
        )
        return 2
    except Preempted as stop:
        print(f"wmpo_jax: {stop}", file=sys.stderr)
        return 75
    return 0


def run(flags: argparse.Namespace, rest: Sequence[str]) -> None:
    """Config, environment, hosts, mesh, stages."""
    unknown = [flag for flag in rest if not flag.startswith("--config.")]
    if unknown:
        raise UserError(f"There is no flag {' '.join(unknown)}; --help lists them.")
    for name in ("workdir", "stages", "base"):  # of a shell's variable that is not set, perhaps
        if getattr(flags, name) == "":
            raise UserError(f"--{name} is empty: give it a value, or leave it out.")
    # Imports wait until an interrupt is harmless.
    from wmpo_jax.runtime.config import config_name, load_config

    config = load_config(flags.config, [flag.removeprefix("--config.") for flag in rest])
    environment.prepare(config.cpu_devices)
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax import stages
    from wmpo_jax.runtime import distributed, mesh, preemption, validation, watch
    from wmpo_jax.runtime.paths import resolve
    from wmpo_jax.runtime.workdir import Workdir
    from wmpo_jax.stages import base

    validation.check_paths(config)
    distributed.initialize(flags.cluster)
    preemption.install()  # joining the hosts comes first, as it has a handler of SIGTERM of its own
    distributed.check_same_config(config)
    devices = mesh.make_mesh(config)
    names = [name.strip() for name in flags.stages.split(",")] if flags.stages else ()
    stages.check(config, names)
    path = resolve(flags.workdir or f"runs/{config_name(flags.config)}")
    begun = base.find(resolve(flags.base), config, path) if flags.base else None
    with Workdir.open(path, config) as workdir, watch.collectives():
        print(f"{mesh.describe(devices)}\nworkdir {workdir.path}", file=sys.stderr)
        if begun:
            begun.take_over(workdir)
        stages.run_all(config, workdir, devices, names)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # while Python starts again
    environment.restart_with_huge_pages()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.exit(main(sys.argv[1:]))
