"""Lengths of a run and of its parts: "300 epochs", "10_000 steps", "5%", in steps."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vit_jax import errors

STEPS_LIMIT = 10**9
UNITS = {
    "": "steps",
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "example": "examples",
    "examples": "examples",
    "%": "percent",
    "percent": "percent",
}
_NUMBER = r"[0-9](?:_?[0-9])*(?:\.[0-9]*)?(?:e[+]?[0-9]+)?"
_DURATION = re.compile(rf"^\s*({_NUMBER})\s*([a-z]*|%)\s*$")


@dataclass(frozen=True)
class Durations:
    """The durations of a configuration in steps; 0 is never.

    Attributes:
        written: the total as it was written.
    """

    total: int
    log_every: int
    eval_every: int
    save_every: int
    warmup: int
    cooldown: int
    written: str


def of(config: Mapping[str, Any], num_examples: int) -> Durations:
    """Returns the durations of a configuration.

    Args:
        config: nested, as `configs/base.py` has it.
        num_examples: of the training split.

    Raises:
        UserError: one that is none, or parts longer than the whole.
    """
    steps = functools.partial(
        duration, batch_size=config["batch_size"], num_examples=num_examples
    )
    total = steps("total", config["total"])
    if total == 0:
        raise errors.UserError("total is empty; want a length, as in '300 epochs'")
    optimizer = config["optimizer"]
    durations = Durations(
        total=total,
        log_every=steps("log_every", config["log_every"], total_steps=total),
        eval_every=steps("eval_every", config["eval_every"], total_steps=total),
        save_every=steps("save_every", config["save_every"], total_steps=total),
        warmup=steps("optimizer.warmup", optimizer["warmup"], total_steps=total),
        cooldown=steps("optimizer.cooldown", optimizer["cooldown"], total_steps=total),
        written=config["total"],
    )
    if durations.warmup + durations.cooldown > total:
        raise errors.UserError(
            f"optimizer.warmup={optimizer['warmup']!r} and "
            f"cooldown={optimizer['cooldown']!r} are {durations.warmup} and "
            f"{durations.cooldown} steps, the whole run is {total}; "
            "shorten them or give them as a share, as in '10%'"
        )
    return durations


def trains_nothing(config: Mapping[str, Any]) -> bool:
    """Returns whether a configuration asks for no steps in words, as in "0 steps".

    Raises:
        UserError: its total is not a duration.
    """
    text = str(config["total"]).strip()
    return bool(text) and not duration("total", text, batch_size=2**20, num_examples=1)


def duration(
    name: str,
    text: str,
    *,
    batch_size: int,
    num_examples: int,
    total_steps: int | None = None,
) -> int:
    """Returns the steps of a duration, 0 for the empty string.

    Args:
        name: the configuration key, for errors.
        text: "300 epochs", "10_000 steps", "5e6 examples", "5%" or a number of steps.
        batch_size: examples a step.
        num_examples: examples an epoch.
        total_steps: what percentages are of; None where they make no sense.

    Raises:
        UserError: not a duration, or one out of bounds.
    """
    if not text.strip():
        return 0
    match = _DURATION.match(text.lower())
    if not match or match[2] not in UNITS:
        raise errors.UserError(
            f'{name}={text!r} is no duration; write "300 epochs", "10_000 steps", '
            f'"5e6 examples" or "5%"'
        )
    amount, unit = float(match[1]), UNITS[match[2]]
    if unit == "percent":
        if total_steps is None or amount > 100:
            raise errors.UserError(
                f"{name}={text!r}: want a share of the run up to 100%, and "
                "total itself in steps, epochs or examples"
            )
        steps = amount / 100 * total_steps
    else:
        scale = {"steps": 1, "epochs": num_examples, "examples": 1}[unit]
        steps = amount * scale / (1 if unit == "steps" else batch_size)
    if not 0 <= steps <= STEPS_LIMIT:
        raise errors.UserError(
            f"{name}={text!r} is {steps:.3g} steps; want at most {STEPS_LIMIT:.0e}"
        )
    return max(1, round(steps)) if amount > 0 else 0


def check_trains(config: Mapping[str, Any]) -> None:
    """Raises `UserError` for a configuration that trains nothing."""
    if trains_nothing(config):
        raise errors.UserError(
            f"total={config['total']!r} trains nothing: vit_jax.main evaluates "
            "init_from and ends. Here want a length, as in '300 epochs'"
        )
