"""What is wrong with the machine at the moment, as opposed to what is wrong with a file."""

import errno
import os

from wmpo_jax.runtime.errors import UserError

_AGAIN = "this says nothing about the dataset, run again"
# Error numbers that pass, and what ends them. A missing file is not among them: that stays.
_PASSING = {
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run again",
    errno.ENFILE: "close other programs and run again",
    errno.ENOMEM: "free memory and run again",
    errno.EACCES: "make it readable for you and run again",
    errno.EPERM: "make it readable for you and run again",
    **dict.fromkeys((errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENOSPC), _AGAIN),
    **dict.fromkeys((errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN), _AGAIN),
}


def refuse_passing(error: BaseException, where: str) -> None:
    """Returns if `error` comes from the content of a file.

    Raises:
      UserError: it, or what it was raised from, comes from the state of the machine: no memory, no
        file handles, no permission, a network drive that is away.
    """
    link: BaseException | None = error
    while link is not None:
        number = errno.ENOMEM if isinstance(link, MemoryError) else getattr(link, "errno", None)
        if number in _PASSING:
            raise UserError(
                f"{where} cannot be read ({os.strerror(number)}): {_PASSING[number]}."
            ) from error
        link = link.__cause__ or link.__context__
