"""A traced function as one flat list of operations: no loop, no call, no remat.

Converters to other tools' graphs know the operations of arrays better than those of
control; the stacked parameters of blocks become one constant a block here.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
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


# From an operation's parameters and inputs to its one result, by other operations.
Others = Mapping[str, Callable[..., Any]]
NO_OTHERS: Others = {}


def flat(
    function: Callable[..., Any], example: Any, others: Others = NO_OTHERS
) -> Callable[[Any], list[Any]]:
    """Returns a function of one array that computes the same, leaf by leaf.

    Args:
        function: Of one array, a pytree of arrays.
        example: The array, or its shape and dtype.
        others: What is computed in the place of operations, by their names.
    """
    closed = jax.make_jaxpr(function)(example)
    return lambda x: evaluate(closed, x, others=others)


def evaluate(closed: Any, *args: Any, others: Others = NO_OTHERS) -> list[Any]:
    """Computes a closed jaxpr, an operation at a time, with loops rolled out."""
    known: dict[Any, Any] = {}

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    known.update(zip(closed.jaxpr.constvars, map(_constant, closed.consts)))
    known.update(zip(closed.jaxpr.invars, args))
    for equation in closed.jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        if _is_known(equation, inputs):  # a constant, not computed at every call
            with jax.ensure_compile_time_eval():
                found = [np.asarray(x) for x in _result(equation, inputs, others)]
        else:
            found = list(_result(equation, inputs, others))
        known.update(zip(equation.outvars, found))
    return [value(atom) for atom in closed.jaxpr.outvars]


def _is_known(equation: Any, inputs: list[Any]) -> bool:
    sizes = [size for out in equation.outvars for size in out.aval.shape]
    numbers = (np.ndarray, np.generic, int, float, bool)
    return all(isinstance(x, numbers) for x in inputs) and all(
        isinstance(size, int) for size in sizes
    )


def _constant(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array) else value


def _result(equation: Any, inputs: list[Any], others: Others) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _rolled_out(params, inputs, others)
    if name in others:
        return [others[name](params, *inputs)]
    if name in _NOTHING:
        return inputs
    if name in _CALLS:
        inner = params[_CALLS[name]]
        closed = inner if isinstance(inner, core.ClosedJaxpr) else _closed(inner)
        return evaluate(closed, *inputs, others=others)
    found = equation.primitive.bind(*inputs, **params)
    return found if equation.primitive.multiple_results else [found]


def _closed(jaxpr: Any) -> Any:
    return core.ClosedJaxpr(jaxpr, ())


def _rolled_out(params: dict[str, Any], inputs: list[Any], others: Others) -> list[Any]:
    """The turns of a scan one after the other."""
    fixed = params["num_consts"]
    first = fixed + params["num_carry"]
    constants, carry, stacked = inputs[:fixed], inputs[fixed:first], inputs[first:]
    turns = range(params["length"])
    collected: list[list[Any]] = []
    for turn in reversed(turns) if params["reverse"] else turns:
        # numpy's arrays are sliced here and now, into constants
        rows = [x[turn] for x in stacked]
        found = evaluate(params["jaxpr"], *constants, *carry, *rows, others=others)
        carry = found[: len(carry)]
        collected.append(found[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(jnp.stack(values) for values in zip(*collected))]


def _pad(params: dict[str, Any], x: Any, value: Any) -> Any:
    """Joins rows of one value to an array, whose batch may be of any size."""
    config = params["padding_config"]
    if any(low < 0 or high < 0 or inside for low, high, inside in config):
        return jax.lax.pad(x, value, config)
    for axis, (low, high, _) in enumerate(config):
        if low or high:
            row = jax.lax.slice_in_dim(x, 0, 1, 1, axis) * 0 + value
            x = jnp.concatenate([row] * low + [x] + [row] * high, axis)
    return x


def _max_pool(params: dict[str, Any], x: Any) -> Any:
    """The largest of each window, as many slices as a window has places."""
    sizes, steps = params["window_dimensions"], params["window_strides"]
    config = [(low, high, 0) for low, high in params["padding"]]
    lowest = jnp.finfo(x.dtype).min
    x = _pad({"padding_config": config}, x, np.asarray(lowest, x.dtype))
    pooled = [axis for axis, size in enumerate(sizes) if size > 1]
    parts = []
    for place in np.ndindex(*(sizes[axis] for axis in pooled)):
        part = x
        for axis, start in zip(pooled, place):
            end = x.shape[axis] - sizes[axis] + start + 1
            part = jax.lax.slice_in_dim(part, start, end, steps[axis], axis)
        parts.append(part)
    return functools.reduce(jnp.maximum, parts)


# For ONNX: onnxruntime pools images with channels before their rows alone, and jax2onnx
# pads only what has a known batch.
OF_ONNX: Others = {"pad": _pad, "reduce_window_max": _max_pool}
