"""One run at a time in a workdir, held by the kernel until its process is gone.

The lock is of process 0 alone, and of `flock`: it holds among the processes of a host,
and of all hosts on file systems that pass it on (NFS 4, Lustre with -o flock). Buckets
have none.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vit_jax import errors
from vit_jax.host import files

FILE_NAME = "lock"
PATIENCE = 5.0  # seconds in which a run that was killed may let go


def _opened(path: Path) -> int | None:
    """The locked file; None where there are no locks."""
    deadline = time.monotonic() + PATIENCE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it: the next one opens another.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(file)
                logging.info("no lock of %s: %s", path, error)
                return None
            if time.monotonic() > deadline:
                holder = os.read(file, 300).decode(errors="replace").strip()
                os.close(file)
                raise errors.UserError(
                    f"workdir {path.parent} is in use by another run, "
                    f"{holder or 'of which nothing is known'}; wait for its end or "
                    "want another --workdir"
                ) from error
        os.close(file)
        time.sleep(0.1)


def _sign(file: int) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    who = f"process {os.getpid()} on {socket.gethostname()}, since {when}\n"
    os.truncate(file, 0)
    os.pwrite(file, who.encode(), 0)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[Callable[[], None]]:
    """Locks a workdir in the body, and makes it where it is missing.

    Yields what removes the lock and the folders that were made, if nothing else is in
    them; an error in the body does so. Where no lock can be made nothing holds: whoever
    writes there says why.

    Raises:
        UserError: another run has it.
    """
    if files.address(workdir):
        yield lambda: None
        return
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    path, file = workdir / FILE_NAME, None
    new = not path.exists()
    with contextlib.suppress(OSError):
        workdir.mkdir(parents=True, exist_ok=True)
        file = _opened(path)

    def undo() -> None:
        with contextlib.suppress(OSError):  # something is in it
            if new:
                path.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    try:
        if file is not None:
            with contextlib.suppress(OSError):  # no space
                _sign(file)
        yield undo
    except BaseException:
        undo()
        raise
    finally:
        if file is not None:
            os.close(file)
