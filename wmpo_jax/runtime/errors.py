"""Exceptions with a message for the user rather than a traceback."""


class UserError(Exception):
    """Something the user can fix; the message is one plain sentence: what, where, how to fix it.

    `main` prints it without a traceback and exits with status 2.
    """


class Preempted(Exception):
    """A stage has saved its state and stopped because it was asked to.

    `main` exits with status 75 (EX_TEMPFAIL), which schedulers read as "run me again".
    """


class HostLost(Preempted):
    """Another host of the run is gone; what was saved is its newest checkpoint."""
