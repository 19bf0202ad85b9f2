"""The one exception that is meant for the person at the keyboard rather than for a debugger."""


class UserError(Exception):
    """Something the user can mend; the message is one plain sentence: what, where, how to mend it.

    `main` prints it without a traceback and exits with status 2.
    """
