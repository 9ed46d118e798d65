"""What is known of another code's files: names, and what names and shapes leave out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vit_jax import tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.architecture import Architecture
from vit_jax.weights.rules import Rule
from vit_jax.weights.source import Tensors

Config = Mapping[str, Any]


def _nothing(of: Any) -> dict[str, Any]:
    return {}


def _as_it_is(leaves: Tensors, arch: Architecture) -> tuple[Tensors, Architecture]:
    return leaves, arch


def half(arch: Architecture, config: Config | None) -> Preprocessing:
    """Returns whole images resized, values from -1 to 1: Google's codes."""
    return Preprocessing(image_size=arch.image_size)


def _unsaid(config: Config | None) -> None:
    return None


@dataclass(frozen=True)
class Dialect:
    """Another code's way to store models of one family.

    Attributes:
        rules: Between our leaf names and theirs.
        marker: A regex that one of a file's names matches, and none of a dialect that
            comes later in `dialects.DIALECTS`.
        family: Key of `families.FAMILIES`.
        fields: Fields of the architecture that all of its models have and no tensor
            shows, e.g. {"gelu": "erf"}.
        says: From the names, shapes and `config` of their tensors to more such fields
            (heads, norm_epsilon, image_size it was trained at ...), over `fields`.
        leaves_rest: Whether that code takes images that its patches do not divide, and
            leaves the rest at the bottom and right unseen.
        says_heads: Whether the tensors show the number of heads. If not, and `says`
            does not know it either, it is that of the named size, or asked for.
        ignore: Regexes of their tensors that are no parameters.
        loaded: Applied to our leaves after the rules.
        saved: Its inverse before the rules; may change the architecture to one of the
            same function, e.g. without a position for the class token.
        prefix: Put before their names when they are written.
        containers: Keys of `containers.CONTAINERS` it is found in; the first is written
            where the path does not say.
        preprocessing: How that code evaluates, of the architecture and `config`.
        label_names: One a class, of `config`.
        label_ids: Other names of the same classes, of `config`.
        problem: What the outputs are, of `config`: see `outputs.problem`.
        config: The `config.json` that is written beside the weights, of architecture,
            preprocessing and label names; None: there is none.
        says_problem: From the problem to what that config says of it.
    """

    rules: tuple[Rule, ...]
    marker: str
    family: str = "vit"
    fields: Mapping[str, Any] = field(default_factory=dict)
    says: Callable[[Tensors], dict[str, Any]] = _nothing
    leaves_rest: bool = False
    says_heads: bool = True
    ignore: tuple[str, ...] = ()
    loaded: Callable[[Tensors], Tensors] = tree.same
    saved: Callable[[Tensors, Any], tuple[Tensors, Architecture]] = _as_it_is
    prefix: str = ""
    containers: tuple[str, ...] = ("npz", "tensorstore")
    preprocessing: Callable[[Any, Config | None], Preprocessing] = half
    label_names: Callable[[Config | None], tuple[str, ...] | None] = _unsaid
    label_ids: Callable[[Config | None], tuple[str, ...] | None] = _unsaid
    problem: Callable[[Config | None], str | None] = _unsaid
    config: Callable[[Any, Preprocessing, Any], dict[str, Any]] | None = None
    says_problem: Callable[[str], dict[str, Any]] = _nothing
