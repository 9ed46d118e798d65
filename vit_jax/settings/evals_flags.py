"""Evaluations added, changed and removed on the command line.

    --config.evals.few=fewshot:pets    a new one, TYPE[:DATASET], with defaults
    --config.evals.few.shots=1,5       a key of one
    --config.evals.val=none            without it; --config.evals=none without any

Types, their keys and defaults are those of `configs/base_evals.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vit_jax import errors
from vit_jax.settings import packaged, sections

NONE = "none"
_FLAG = re.compile(
    r"--?(?P<no>no)?config\.evals(?P<path>\.[^=]*)?(=(?P<value>.*))?", re.S
)
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_WANTED = (
    "wants --config.evals.NAME=TYPE[:DATASET], as in --config.evals.few=fewshot:pets"
)
# Keys whose defaults depend on the data that is evaluated.
OF_THE_DATA = {"dataset", "split", "train_split", "optional"}
IMAGES = set(sections.EVAL_IMAGES)


@dataclass
class Given:
    """What the command line says of one evaluation."""

    spec: str = ""  # TYPE[:DATASET] or "none"
    keys: dict[str, str] = field(default_factory=dict)


def split(argv: Sequence[str]) -> tuple[list[str], dict[str, Given]]:
    """Takes the flags of evaluations out of a command line.

    Returns:
        The other words, and what is said of each evaluation; of "" where it is said of
        all of them.

    Raises:
        UserError: a flag without a value, or one that names no evaluation.
    """
    others: list[str] = []
    given: dict[str, Given] = {}
    words = iter(argv)
    for word in words:
        match = _FLAG.fullmatch(word)
        if not match:
            others.append(word)
            continue
        value = match["value"] if match["value"] is not None else next(words, "--")
        name, dot, key = (match["path"] or ".")[1:].partition(".")
        if match["no"] or value.startswith("--") or not (value or dot):
            raise errors.UserError(f"{word} has no value; one {_WANTED}")
        if not _NAME.fullmatch(name) and (match["path"] or value != NONE):
            raise errors.UserError(f"{word}: which evaluation? One {_WANTED}")
        one = given.setdefault(name, Given())
        if dot:
            one.keys[key] = value
        else:
            one.spec = value
    return others, given


def apply(config: Any, given: Mapping[str, Given]) -> None:
    """Changes the evaluations of a locked `ConfigDict` as the flags say.

    Raises:
        UserError: an unknown type, key or evaluation, or a value of the wrong kind.
    """
    if not given:
        return
    evals = {name: options.to_dict() for name, options in config.evals.items()}
    if "" in given:
        evals = {}
    for name, one in given.items():
        if one.spec == NONE:
            _remove(evals, name, one)
        else:
            evals[name] = _changed(name, one, evals, config.data.dataset)
    with config.unlocked():
        config.evals = type(config)(evals)


def _remove(evals: dict[str, Any], name: str, one: Given) -> None:
    if one.keys:
        key = next(iter(one.keys))
        raise errors.UserError(
            f"--config.evals.{name}=none and --config.evals.{name}.{key}: which is it?"
        )
    if name and name not in evals:
        raise _no_such(name, evals)
    evals.pop(name, None)


def _changed(
    name: str, one: Given, evals: Mapping[str, Any], run_dataset: str
) -> dict[str, Any]:
    """The options of one evaluation after its flags."""
    old = evals[name] if name in evals and not one.spec else {}
    kind, _, dataset = one.spec.partition(":")
    if old:
        kind, dataset = old["type"], old["dataset"]
    identity = {"type": kind, "dataset": dataset}
    identity |= {key: one.keys[key] for key in identity if key in one.keys}
    kind, dataset = identity.values()
    if not kind:
        raise _no_such(name, evals)
    options = dict(old)
    if not old or (kind, dataset) != (old["type"], old["dataset"]):
        # What the recipe chose stays where it still means the same.
        kept = {"every"} | ({"split"} if old and dataset == old["dataset"] else set())
        kept |= set(old) - OF_THE_DATA if old and kind == old["type"] else IMAGES
        options = _defaults(name, kind, dataset, run_dataset)
        options |= {key: old[key] for key in kept & set(old)}
    for key, text in one.keys.items():
        if key not in identity:
            options[key] = _value(name, kind, key, text, options)
    return options


def _defaults(name: str, kind: str, dataset: str, run_dataset: str) -> dict[str, Any]:
    with packaged.importable():
        from configs import base
    if kind not in base.EVALUATIONS:
        known = ", ".join(base.EVALUATIONS)
        raise errors.UserError(
            f"evals.{name}: an evaluation of type {kind!r} is unknown; known: {known}."
            f"{errors.suggest(kind, base.EVALUATIONS)} One {_WANTED}"
        )
    options = base.EVALUATIONS[kind](dataset or run_dataset).to_dict()
    return options if dataset else options | {"dataset": ""}


def _no_such(name: str, evals: Mapping[str, Any]) -> errors.UserError:
    known = ", ".join(evals) or "none"
    return errors.UserError(
        f"there is no evaluation {name!r}; the recipe has: {known}."
        f"{errors.suggest(name, evals)} To add one: --config.evals.{name}="
        f"TYPE[:DATASET], as in --config.evals.{name}=fewshot:pets"
    )


def _words(text: str) -> list[str]:
    text = text.strip().strip("()[]").strip()
    return re.split("[,x]", text.removesuffix(",")) if text else []  # (5,) is one


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _words(text)))


def _fractions(text: str) -> tuple[float, ...]:
    return tuple(map(float, _words(text)))


def _boolean(text: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[text.strip().lower()]


# Type of the default -> how a flag is read, and what is wanted.
_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    bool: (_boolean, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple: (_numbers, "whole numbers, as in 1,5 or 224x224"),
    list: (_numbers, "whole numbers, as in 1,5"),
}


def _value(
    name: str, kind: str, key: str, text: str, options: Mapping[str, Any]
) -> Any:
    if key not in options:
        known = ", ".join(sorted(options))
        raise errors.UserError(
            f"unknown key evals.{name}.{key}; an evaluation of type {kind} has {known}."
            f"{errors.suggest(key, options)}"
        )
    default = options[key]
    if type(default) not in _READERS:
        raise errors.UserError(
            f"evals.{name}.{key}={default!r} in the recipe is nothing that a flag "
            "can change; want text, a number or numbers"
        )
    read, wanted = _READERS[type(default)]
    if isinstance(default, tuple | list) and any(type(one) is float for one in default):
        read, wanted = _fractions, "numbers, as in 1e-4,0.1"
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise errors.UserError(
            f"--config.evals.{name}.{key}={text}: want {wanted}"
        ) from error
