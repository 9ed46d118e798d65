"""What a `config.json` of transformers says of a model's outputs."""

from typing import Any

from vit_jax import errors
from vit_jax.weights import outputs
from vit_jax.weights.dialect import Config


def label_names(config: Config | None) -> tuple[str, ...] | None:
    """Returns `id2label`; LABEL_0, LABEL_1 ..., what it holds unasked, are no names."""
    listed = outputs.names((config or {}).get("id2label"), "config.json: id2label")
    unnamed = tuple(f"LABEL_{i}" for i in range(len(listed or ())))
    return None if listed == unnamed else listed


_PROBLEMS = {
    "single_label_classification": outputs.SINGLE,
    "multi_label_classification": outputs.MULTI,
    "regression": outputs.REGRESSION,
}


def problem(config: Config | None) -> str | None:
    """Returns what `problem_type` says of the outputs, None without one.

    Raises:
        errors.UserError: none that transformers has.
    """
    said = (config or {}).get("problem_type")
    if said is None:
        return None
    if not isinstance(said, str) or said not in _PROBLEMS:
        raise errors.UserError(
            f"config.json: problem_type={str(said)[:50]!r}; "
            f"ours: {', '.join(_PROBLEMS)}."
        )
    return _PROBLEMS[said]


def says_problem(meant: str) -> dict[str, Any]:
    """Returns the config's part that `problem` reads."""
    theirs = {ours: theirs for theirs, ours in _PROBLEMS.items()}
    return {} if meant == outputs.SINGLE else {"problem_type": theirs[meant]}
