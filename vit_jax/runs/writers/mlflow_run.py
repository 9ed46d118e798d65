"""MLflow: the server of MLFLOW_TRACKING_URI, else a folder `mlruns` by the workdir.

The folder is beside it so that runs side by side are compared there. A run that goes on
goes on in the same run there.
"""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.runs import metrics
from vit_jax.runs.writers import service
from vit_jax.settings import validation

AT_A_TIME = 100  # parameters that a server takes in one request
LONGEST = 500  # characters of a value that every server takes


def package() -> Any:
    """Returns the module mlflow.

    Raises:
        UserError: it is not installed.
    """
    try:
        # An extra: it need not be there.
        import mlflow  # pyright: ignore[reportMissingImports]
        import mlflow.entities  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.UserError(
            f"log.writers has mlflow, which is not there ({error}): "
            "pip install 'vit_jax[mlflow]', or take it out of --config.log.writers"
        ) from error
    return mlflow


def check_place() -> None:
    """Raises `UserError` where runs would lie beside a workdir that does not last."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise errors.UserError(
            "log.writers has mlflow, which wants to know where runs are when the "
            "workdir is in a bucket: MLFLOW_TRACKING_URI=https://SERVER or a folder"
        )


def tracking_uri(workdir: Path) -> str:
    """Returns where the runs are: what the environment says, else beside a workdir."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # else it refuses folders
    return (workdir.resolve().parent / "mlruns").as_uri()


class MlflowRun:
    """A run at MLflow."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], run_id: str | None):
        """Opens the run of an earlier call; for None a new one, with its parameters."""
        self._mlflow = package()
        self._client = self._mlflow.MlflowClient(tracking_uri=tracking_uri(workdir))
        if run_id is None:
            name = os.environ.get("MLFLOW_RUN_NAME") or workdir.resolve().name
            run = self._client.create_run(self._experiment(), run_name=name)
            self.run_id = run.info.run_id
            self._describe(config)
        else:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")

    def send(
        self, step: int, figures: Mapping[str, float], when: Mapping[str, float]
    ) -> None:
        """Logs the figures of a step in one request."""
        milliseconds = round(when[metrics.WALL_TIME] * 1000)
        metric = self._mlflow.entities.Metric
        rows = [metric(name, x, milliseconds, step) for name, x in figures.items()]
        self._client.log_batch(self.run_id, metrics=rows)

    def close(self) -> None:
        """Says that the run is over."""
        self._client.set_terminated(self.run_id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "vit_jax"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        return self._client.create_experiment(name)

    def _describe(self, config: Mapping[str, Any]) -> None:
        values = iter(validation.flatten(config).items())
        while some := list(itertools.islice(values, AT_A_TIME)):
            params = [
                self._mlflow.entities.Param(key, str(value)[:LONGEST])
                for key, value in some
            ]
            self._client.log_batch(self.run_id, params=params)


def writer(workdir: Path, config: Mapping[str, Any]) -> service.Service:
    """Returns the writer of a run."""
    return service.Service(
        "mlflow", workdir, lambda run_id: MlflowRun(workdir, config, run_id)
    )
