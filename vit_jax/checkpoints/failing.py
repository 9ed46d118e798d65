"""What is said of a run that cannot write: what is still good, and what to do."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import orbax.checkpoint as ocp

from vit_jax import cli, errors
from vit_jax.checkpoints import disk
from vit_jax.host import files

FOLDER = disk.FOLDER


def good(directory: Path) -> str:
    """Returns "step 40", the newest checkpoint that was committed, or "none".

    Args:
        directory: A `checkpoints` folder, which may be gone or beyond reach.
    """
    try:
        steps = disk.available(directory)
    except OSError as error:
        return f"not known, {directory} cannot be read ({error.strerror or error})"
    return f"step {steps[-1]}" if steps else "none"


def _free(directory: Path) -> str:
    if files.address(directory):
        return ""
    try:
        free = shutil.disk_usage(directory).free
    except FileNotFoundError:
        return " (the folder is gone)"
    except OSError as error:
        return f" ({error.strerror or error})"
    return f" ({free / 2**20:,.0f} MiB free there)"


def not_written(directory: Path, error: Exception) -> errors.StorageError:
    """Returns the error that says why a checkpoint could not be written."""
    return errors.StorageError(
        f"a checkpoint could not be written to {directory}{_free(directory)}: "
        f"{disk.reason(error)}\n"
        f"newest good checkpoint: {good(directory)}; free some space or mend the "
        "folder, then run the same command again: it goes on from what is there"
    )


def not_finite(
    directory: Path, step: int, leaves: Sequence[str]
) -> errors.NonFiniteError:
    """Returns the error that a state is not saved, for its leaves are not finite."""
    newest = disk.available(directory)
    return errors.NonFiniteError(
        f"step {step}: its update left leaves that are not finite: "
        f"{errors.some(leaves)}.\nIt was not saved: the newest checkpoint "
        f"is {f'of step {newest[-1]}' if newest else 'none'}. Lower optimizer.lr, "
        "set optimizer.clip_norm, or use model.compute_dtype=float32",
        range(step, step + 1),
    )


def leave(manager: ocp.CheckpointManager | None) -> None:
    """Ends a writer that failed; what it was writing is removed by the next one."""
    cli.leave_threads()  # of orbax, which wait minutes for a folder that was not made
    if manager is not None:
        with contextlib.suppress(Exception):  # it says once more what has been said
            manager.close()
