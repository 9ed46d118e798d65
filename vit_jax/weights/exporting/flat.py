"""A traced function as one flat list of operations: no loop, no call, no remat.

Converters to other tools' graphs know the operations of arrays better than those of
control; the stacked parameters of blocks become one constant a block here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Operations that only hold a program of their own, and where they keep it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# They say something to a compiler or to a derivative, and pass values on.
_NOTHING = ("stop_gradient", "optimization_barrier")


def flat(function: Callable[..., Any], example: Any) -> Callable[[Any], list[Any]]:
    """Returns a function of one array that computes the same, leaf by leaf.

    Args:
        function: Of one array, a pytree of arrays.
        example: The array, or its shape and dtype.
    """
    closed = jax.make_jaxpr(function)(example)
    return lambda x: evaluate(closed, x)


def evaluate(closed: Any, *args: Any) -> list[Any]:
    """Computes a closed jaxpr, an operation at a time, with loops rolled out."""
    known: dict[Any, Any] = {}

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    known.update(zip(closed.jaxpr.constvars, map(_constant, closed.consts)))
    known.update(zip(closed.jaxpr.invars, args))
    for equation in closed.jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _result(equation, inputs)))
    return [value(atom) for atom in closed.jaxpr.outvars]


def _constant(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array) else value


def _result(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _rolled_out(params, inputs)
    if name in _NOTHING:
        return inputs
    if name in _CALLS:
        inner = params[_CALLS[name]]
        closed = inner if isinstance(inner, core.ClosedJaxpr) else _closed(inner)
        return evaluate(closed, *inputs)
    found = equation.primitive.bind(*inputs, **params)
    return found if equation.primitive.multiple_results else [found]


def _closed(jaxpr: Any) -> Any:
    return core.ClosedJaxpr(jaxpr, ())


def _rolled_out(params: dict[str, Any], inputs: list[Any]) -> list[Any]:
    """The turns of a scan one after the other."""
    fixed = params["num_consts"]
    first = fixed + params["num_carry"]
    constants, carry, stacked = inputs[:fixed], inputs[fixed:first], inputs[first:]
    turns = range(params["length"])
    collected: list[list[Any]] = []
    for turn in reversed(turns) if params["reverse"] else turns:
        # numpy's arrays are sliced here and now, into constants
        found = evaluate(
            params["jaxpr"], *constants, *carry, *(x[turn] for x in stacked)
        )
        carry = found[: len(carry)]
        collected.append(found[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(jnp.stack(values) for values in zip(*collected))]
