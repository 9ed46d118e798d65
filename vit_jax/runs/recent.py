"""The metrics of the steps since the last log line, read when the device is past them.

Steps leave their values on the device; reading them later costs the host no wait. What
was read is summed, so that a log line has the means of its period beside its last
batch, and checked: a run whose loss or gradient is not finite stops.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import errors

LIMIT = 256  # steps that may wait to be read; more are a leak where nothing is logged
_COUNT = "steps"


class Recent:
    """Values of the last steps.

    Args:
        names: of the parameters, as `grad_squares` counts them.
        sums: what `state` gave at the checkpoint that the run continues.
    """

    def __init__(self, names: Sequence[str], sums: Mapping[str, float]):
        self._names = names
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self._sums = dict(sums)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, step: int, values: Mapping[str, jax.Array]) -> None:
        """Remembers a step's scalars and `grad_squares` without reading them."""
        kept = {k: v for k, v in values.items() if v.ndim == 0 or k == "grad_squares"}
        self._waiting.append((step, kept))

    def read(self, until: int) -> None:
        """Reads the steps up to one.

        Raises:
            NonFiniteError: at the first that is not finite.
        """
        ready = [entry for entry in self._waiting if entry[0] <= until]
        self._waiting = self._waiting[len(ready) :]
        for step, values in jax.device_get(ready):
            squares = values.pop("grad_squares")
            self._check(step, values["loss"], squares)
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._sums[_COUNT] = self._sums.get(_COUNT, 0.0) + 1

    def means(self) -> dict[str, float]:
        """Returns {"loss_mean", ...} of what was read, and starts the next period."""
        sums, self._sums = self._sums, {}
        count = sums.pop(_COUNT, 0.0)
        return {f"{name}_mean": value / count for name, value in sums.items()}

    def state(self) -> dict[str, float]:
        """What a run needs to go on in the middle of a period: exact sums."""
        return dict(self._sums)

    def _check(self, step: int, loss: Any, squares: np.ndarray) -> None:
        bad = ~np.isfinite(squares)
        if np.isfinite(loss) and not bad.any():
            return
        named = [name for name, is_bad in zip(self._names, bad) if is_bad]
        leaves = ", ".join(named[:5]) or "none"
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        raise errors.NonFiniteError(
            f"step {step}: loss {loss}; leaves with a non-finite "
            f"gradient: {leaves}{more}.\nNothing of it was saved: the newest "
            "checkpoint is from before. Lower optimizer.lr, set "
            "optimizer.clip_norm, or use model.compute_dtype=float32"
        )
