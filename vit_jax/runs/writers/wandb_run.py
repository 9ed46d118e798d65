"""Weights & Biases, online or not, as its own environment variables say.

WANDB_MODE, WANDB_PROJECT, WANDB_NAME, WANDB_DIR, WANDB_RUN_ID and the rest work as
everywhere. A run that goes on goes on in the same run there; offline its parts lie side
by side in WORKDIR/wandb, and `wandb sync --append` joins them. wandb writes to its file
from time to time: after `kill -9` it may lack the last rows, which metrics.jsonl has.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.runs.writers import service

WITHOUT_LOGIN = ("offline", "dryrun", "disabled")


def package() -> Any:
    """Returns the module wandb.

    Raises:
        UserError: it is not installed.
    """
    try:
        # An extra: it need not be there.
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.UserError(
            f"log.writers has wandb, which is not there ({error}): "
            "pip install 'vit_jax[wandb]', or take it out of --config.log.writers"
        ) from error
    return wandb


def check() -> None:
    """Raises `UserError` where wandb is not installed, or wants a login."""
    wandb = package()
    if wandb.setup().settings.mode in WITHOUT_LOGIN:
        return
    if not wandb.login(prompt=False, verify=False):
        raise errors.UserError(
            "log.writers has wandb, and nobody is logged in there: run `wandb login`, "
            "set WANDB_API_KEY, or keep the figures here with WANDB_MODE=offline"
        )


def check_place() -> None:
    """Raises `UserError` where an offline run's files would not outlast the process."""
    offline = package().setup().settings.mode in WITHOUT_LOGIN[:2]
    if offline and not os.environ.get("WANDB_DIR"):
        raise errors.UserError(
            "log.writers has wandb, offline, whose files want a folder of this machine "
            "where the workdir is in a bucket: WANDB_DIR=FOLDER"
        )


class WandbRun:
    """A run at wandb. Its horizontal axis is our step, whenever a figure comes."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], run_id: str | None):
        """Opens the run of an earlier call, or a new one for None."""
        wandb, environment = package(), os.environ
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            dir=environment.get("WANDB_DIR") or str(workdir),
            project=environment.get("WANDB_PROJECT") or "vit_jax",
            name=environment.get("WANDB_NAME") or workdir.resolve().name,
            config=dict(config),
            allow_val_change=True,  # a larger total, where the run goes on
            settings=wandb.Settings(console="off"),  # standard output has one line
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.run_id = self._run.id

    def send(
        self, step: int, figures: Mapping[str, float], when: Mapping[str, float]
    ) -> None:
        """Logs a row."""
        self._run.log({"step": step, **when, **figures})

    def close(self) -> None:
        """Waits until all is there."""
        self._run.finish()


def writer(workdir: Path, config: Mapping[str, Any]) -> service.Service:
    """Returns the writer of a run."""
    return service.Service(
        "wandb", workdir, lambda run_id: WandbRun(workdir, config, run_id)
    )
