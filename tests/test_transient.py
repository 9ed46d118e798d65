"""Storage that may come back ends a command with 42, what does not with 2."""

import errno

import pytest

from vit_jax import cli, errors


def raised(cause):
    try:
        raise errors.UserError("checkpoint 40 could not be written") from cause
    except errors.UserError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (OSError(errno.EIO, "Input/output error"), 42),
        (OSError(errno.ESTALE, "Stale file handle"), 42),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), 42),
        (ValueError("Error writing 'd/x': [OS error 5: EIO Input/output error]"), 42),
        (ValueError("UNAVAILABLE: 503 from storage.googleapis.com"), 42),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2),
        (OSError(errno.EROFS, "Read-only file system"), 2),
        (PermissionError(errno.EACCES, "Permission denied"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file"), 2),
        (ValueError("[OS error 28: ENOSPC No space left on device]"), 2),
        (None, 2),
    ],
)
def test_what_may_pass_is_run_again(cause, code, capsys):
    assert cli.explained(raised(cause)) == code
    said = capsys.readouterr().err
    assert said.startswith("stopped: " if code == 42 else "error: ")
    assert "checkpoint 40 could not be written" in said
    assert ("run the same command again" in said) == (code == 42)


def test_so_is_one_that_nobody_has_explained(capsys):
    assert cli.explained(OSError(errno.EIO, "Input/output error")) == 42
    assert cli.explained(OSError(errno.ENOSPC, "No space")) is None
