"""The functions of a run: its step, compiled, and the passes of its evaluations."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optax
from jax.sharding import Mesh

from vit_jax.learning import objective, passes, step
from vit_jax.parallel import layouts
from vit_jax.types import Params

if TYPE_CHECKING:
    from vit_jax.learning.tuning import Tuning


def outside(bound: passes.Bound, tuned: "Tuning | None") -> passes.Bound:
    """Returns how evaluations call a model that is laid out, with stored parameters.

    Args:
        bound: The model, laid out.
        tuned: Which parameters are trained; None: all, at one rate.
    """
    bound = bound if tuned is None else tuned.bind(bound)
    return dataclasses.replace(
        bound, enter=lambda params: bound.enter(bound.gather(params))
    )


def make(
    trained: objective.Objective,
    tx: optax.GradientTransformation,
    tuned: "Tuning | None",
    layout: layouts.Layout,
    mesh: Mesh,
    bound: passes.Bound,
    *,
    frozen: Sequence[Params],
    **options: Any,
) -> dict[str, Any]:
    """Returns "train_step", "forward" and "evaluation", as `Experiment` has them.

    Args:
        trained: What is trained.
        tx: The optimizer.
        tuned: Which parameters are trained; None: all, at one rate.
        layout: Of the state.
        mesh: Of all devices.
        bound: The model, and those beside it, all laid out.
        frozen: Shapes of the parameters of `bound.beside`, with shardings.
        **options: What `step.make_train_step` takes by keyword, besides what a layout
            says.
    """

    def gather_frozen(params: Sequence[Params]) -> Sequence[Params]:
        return [one.gather(p) for one, p in zip(bound.beside, params, strict=True)]

    train_step = step.make_train_step(
        trained.make_loss(bound if tuned is None else tuned.bind(bound)),
        tx,
        gather=layout.gather,
        scatter=layout.scatter,
        gather_frozen=gather_frozen,
        **options,
    )
    if tuned is not None:
        train_step = tuned.keeping(train_step)
    evaluated = outside(bound, tuned)
    return {
        "tuning": tuned,
        "tx": tx,
        "train_step": layouts.jit_step(train_step, layout, mesh, frozen),
        "forward": passes.make_forward(evaluated),
        "evaluation": trained.make_evaluation(evaluated),
    }
