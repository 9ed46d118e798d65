"""The metrics of the steps since the last log line, read when the device is past them.

Steps leave their values on the device; reading them later costs the host no wait. What
was read is summed, so that a log line has the means of its period beside its last
batch, and checked: a run stops whose loss or gradient is not finite, at once or after
several such steps in a row that were left out.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import errors

LIMIT = 256  # steps that may wait to be read; more are a leak where nothing is logged
_COUNT = "steps"
SKIPPED = "skipped"
# Of a run that ends at its first bad step, or after several.
_OUTCOME = (
    "Nothing of it was saved: the newest checkpoint is from before.",
    "That makes {} in a row, more than skip_bad_steps allows; none of them changed the "
    "state.",
)


class Recent:
    """Values of the last steps.

    Attributes:
        left_out: How many bad steps were left out.

    Args:
        names: of the parameters, as `grad_squares` counts them.
        sums: what `state` gave at the checkpoint that the run continues.
        bad_in_a_row: most bad steps in a row; they have changed nothing.
        tell: called with a bad step, its loss, and the leaves whose gradient is not
            finite; returns what else there is to say of it.
    """

    def __init__(
        self,
        names: Sequence[str],
        sums: Mapping[str, float],
        *,
        bad_in_a_row: int = 0,
        tell: Callable[[int, float, Sequence[str]], str] = lambda *_: "",
    ):
        self._names = names
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self._sums = dict(sums)
        self._bad_in_a_row = bad_in_a_row
        self._tell = tell
        self._bad = 0
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, step: int, values: Mapping[str, jax.Array]) -> None:
        """Remembers a step's scalars and `grad_squares` without reading them."""
        kept = {k: v for k, v in values.items() if v.ndim == 0 or k == "grad_squares"}
        self._waiting.append((step, kept))

    def read(self, until: int) -> None:
        """Reads the steps up to one.

        Raises:
            NonFiniteError: at the first that is not finite, or where as many as are
                allowed came before it in a row.
        """
        ready = [entry for entry in self._waiting if entry[0] <= until]
        self._waiting = self._waiting[len(ready) :]
        for step, values in jax.device_get(ready):
            squares = values.pop("grad_squares")
            skipped = values.pop(SKIPPED, None)
            self._check(step, values["loss"], squares, left_out=bool(skipped))
            if skipped is not None:
                self._add(SKIPPED, skipped)
            if not skipped:
                for name, value in values.items():
                    self._add(name, value)
                self._add(_COUNT, 1)

    def _add(self, name: str, value: Any) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def means(self) -> dict[str, float]:
        """Returns {"loss_mean", ...} of what was read, and starts the next period.

        Steps that were left out are in "skipped_mean", their share, alone.
        """
        sums, self._sums = self._sums, {}
        taken = sums.pop(_COUNT, 0.0)
        means = {}
        if SKIPPED in sums:
            skipped = sums.pop(SKIPPED)
            means[f"{SKIPPED}_mean"] = skipped / (taken + skipped)
        return {f"{name}_mean": value / taken for name, value in sums.items()} | means

    def state(self) -> dict[str, float]:
        """Returns what a run needs to go on in the middle of a period: exact sums."""
        return dict(self._sums)

    def _check(
        self, step: int, loss: Any, squares: np.ndarray, *, left_out: bool
    ) -> None:
        bad = ~np.isfinite(squares)
        if np.isfinite(loss) and not bad.any() and not left_out:
            self._bad = 0
            return
        named = [name for name, is_bad in zip(self._names, bad) if is_bad]
        leaves = errors.some(named) or "none"
        what = f"loss {loss}; leaves with a non-finite gradient: {leaves}"
        what += self._tell(step, float(loss), named)
        self._bad += 1
        if self._bad <= self._bad_in_a_row:
            self.left_out += 1
            logging.warning("step %d left out: %s", step, what)
            return
        raise errors.NonFiniteError(
            f"step {step}: {what}.\n{_OUTCOME[self._bad > 1].format(self._bad)} Lower "
            "optimizer.lr, set optimizer.clip_norm, or use model.compute_dtype=float32",
            range(step - self._bad + 1, step + 1),
        )
