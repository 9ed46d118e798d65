"""What several processes say of a checkpoint, so that all do the same."""

import contextlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax import errors
from vit_jax.host import files

_BYTES = 8192  # of a process's word
_PATIENCE = 10.0  # seconds until a network folder shows what another host wrote


def gathered(value: Any) -> list[Any]:
    """Returns what each process says, in their order; all call it and none goes ahead.

    Args:
        value: What JSON takes, of at most 8 KB.
    """
    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value, ensure_ascii=False).encode()
    assert len(text) <= _BYTES, text
    mine = np.zeros(_BYTES, np.uint8)
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(mine)
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]


def told(value: Any) -> Any:
    """Returns what process 0 says."""
    return gathered(value if jax.process_index() == 0 else None)[0]


def check_shared(workdir: Path) -> None:
    """Checks that all processes have the same folder before they part over it.

    Raises:
        UserError: they have not; on all of them.
    """
    if jax.process_count() == 1:
        return
    first = jax.process_index() == 0
    token = told(secrets.token_hex(8))
    mark, made, failed = workdir / f".seen-{token}", [], ""
    if first:
        if not files.address(workdir):  # in a bucket there are no folders
            made = [path for path in (workdir, *workdir.parents) if not path.exists()]
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            mark.write_text("all processes must see this file\n")
        except OSError as error:
            failed = f"{workdir} cannot be written: {error.strerror or error}"
    failed = told(failed)
    deadline, seen = time.monotonic() + _PATIENCE, False
    while not failed and not (seen := mark.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    folders = gathered(str(workdir)[:500])
    answers = gathered(bool(failed) or seen)
    if first and not failed:
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is used by now
            for path in made:
                path.rmdir()
    if failed:
        raise errors.UserError(f"process 0: {failed}; want --workdir=PATH")
    if not all(answers):
        others = [
            f"process {i}: {path}"
            for i, (path, ok) in enumerate(zip(folders, answers, strict=True))
            if not ok
        ]
        raise errors.UserError(
            errors.listing(
                f"not all processes see what process 0 wrote in {folders[0]}:",
                others,
                "want one folder that all of them see: --workdir=PATH",
            )
        )
