"""Real checks of the policy while it is improved in imagination (`training.trust` decides)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wmpo_jax.agents.policy import trained_of
from wmpo_jax.assembly.seeds import span
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.files import load_arrays, save_arrays
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.comparison import Comparison
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training import trust

BEST = "improve_best"


def monitored(context: RunContext) -> bool:
    """Whether real episodes may be spent on checks: as declared, or as MJX makes them cheap."""
    budget = context.config.monitor.budget if "monitor" in context.config else 0
    acts_in_mjx = not isinstance(context.env, HostEnvironment | RecordedTask)
    return budget > 0 or (budget == -1 and acts_in_mjx)


class RealMonitor:
    """`grpo.Watch`: every `monitor.every` iterations and at both ends `monitor.episodes` real ones.

    Always the same starts, which serve nothing else. All checks so far are in data/improve, and
    the policy of the best one in checkpoints/improve_best. A killed run repeats what came after its
    last checkpoint, and finds the same.
    """

    def __init__(self, context: RunContext, iterations: int, parts: ImaginedParts) -> None:
        section = context.config.monitor
        self._context, self._last, self._every = context, iterations, section.every
        self._planned = len({*range(0, iterations + 1, section.every), iterations})
        self._comparison = Comparison(context, "monitor", section.episodes, parts)
        self._file = context.workdir.data(context.named("improve")) / "checks.npz"
        self._known: list[trust.Check] | None = None

    @property
    def checks(self) -> Sequence[trust.Check]:
        """So far, the first of the policy before reinforcement."""
        return tuple(self._known or ())

    def choice(self) -> trust.Choice:
        """The result of the checks so far."""
        return trust.choose(self.checks, self._planned)

    def __call__(self, iteration: int, params: Any) -> tuple[Mapping[str, float], bool]:
        if self._known is None:
            self._known = [c for c in self._read() if c.iteration <= iteration]
        if iteration % self._every and iteration != self._last:
            return {}, False
        if all(check.iteration != iteration for check in self._known):
            self._known.append(self._check(iteration, params))
            self._keep(iteration, params)
        reason = trust.alarm(self._known, self._planned)
        if reason:
            say(f"ALARM: {reason} Reinforcement stops.")
        return self._known[-1].metrics, bool(reason)

    def _check(self, iteration: int, params: Any) -> trust.Check:
        real, replayed, imagined, errors = [], [], [], []
        for batch in self._comparison.batches(params):
            real.append(np.asarray(batch.real.success_B))
            replayed.append(batch.replayed_B)
            imagined.append(batch.imagined_B)
            truth = np.asarray(batch.real.frames_BTHWC)[:, 1:].astype(np.float32)
            difference = (truth - batch.frames_BTHWC[:, 1:].astype(np.float32)) / 255.0
            errors.append(np.square(difference).mean(axis=(1, 2, 3, 4)))
        error = float(np.concatenate(errors).mean())
        psnr = float(-10.0 * np.log10(error + 1e-12))
        real_B, replayed_B, imagined_B = map(np.concatenate, (real, replayed, imagined))
        return trust.Check(iteration, real_B, replayed_B, imagined_B, psnr)

    def _keep(self, iteration: int, params: Any) -> None:
        """The policy first, then that it was checked: a kill in between repeats the check."""
        checks, context = self._known or [], self._context
        if iteration and trust.best(checks).iteration == iteration:
            with Checkpoints(context.workdir.checkpoints(context.named(BEST)), keep=1) as folder:
                folder.save(iteration, trained_of(params))
        save_arrays(
            self._file,
            {
                "iteration_K": [check.iteration for check in checks],
                "real_KB": [check.real_B for check in checks],
                "replayed_KB": [check.replayed_B for check in checks],
                "imagined_KB": [check.imagined_B for check in checks],
                "psnr_K": [check.psnr for check in checks],
            },
        )
        context.workdir.ledger.append(
            context.named("improve"),
            context.named("monitor"),
            episodes=len(checks) * len(self._comparison.seeds),
            seeds=span(self._comparison.seeds),
            used_for_training=False,
            used_for="the alarm and the choice of the result",
        )

    def _read(self) -> list[trust.Check]:
        if not self._file.exists():
            return []
        found = load_arrays(self._file, self._context.named("improve"))
        return [
            trust.Check(
                int(iteration),
                found["real_KB"][row],
                found["replayed_KB"][row],
                found["imagined_KB"][row],
                float(found["psnr_K"][row]),
            )
            for row, iteration in enumerate(found["iteration_K"])
        ]
