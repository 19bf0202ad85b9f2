"""Exceptions with a message for the user rather than a traceback."""


class UserError(Exception):
    """Something the user can fix; the message is one plain sentence: what, where, how to fix it.

    `main` prints it without a traceback and exits with status 2.
    """


class DamagedEnd(UserError):
    """The checkpoint that a stage ended with is damaged, and one before it is intact.

    Attributes:
      stage: can be repeated from `step` and gives the same parameters again.
    """

    def __init__(self, reason: str, stage: str, step: int) -> None:
        super().__init__(
            f"{reason}: delete stages/{stage}.json in the workdir and run again, stage {stage} "
            f"continues from its checkpoint {step}."
        )
        self.reason, self.stage, self.step = reason, stage, step


class Preempted(Exception):
    """A stage has saved its state and stopped because it was asked to.

    `main` exits with status 75 (EX_TEMPFAIL), which schedulers read as "run me again".
    """


class HostLost(Preempted):
    """Another host of the run is gone; what was saved is its newest checkpoint."""
