"""A model as a graph of TensorFlow's own operations, which TFLite can convert.

jax2tf holds a program as one StableHLO operation, and TFLite's converter refuses what
a batch of any size becomes there. A forward pass needs about forty operations: here
they are.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vit_jax import errors
from vit_jax.weights.exporting import flat

Params = dict[str, Any]


class Graph:
    """Where operations go: TensorFlow, and the batch's size, which is not known.

    Attributes:
        tf: The module.
        symbol: What stands for the number of images in shapes.
        rows: The same number, a scalar tensor.
    """

    def __init__(self, tf: Any, symbol: Any, rows: Any) -> None:
        self.tf, self.symbol, self.rows = tf, symbol, rows

    def sizes(self, shape: Sequence[Any]) -> list[Any]:
        """Returns a shape in numbers, and tensors where it depends on the batch."""
        return [
            size
            if isinstance(size, int)
            else operator.index(size // self.symbol) * self.rows
            for size in shape
        ]

    def reshape(self, x: Any, shape: Sequence[Any]) -> Any:
        """Returns x in a shape of which one size at most depends on the batch."""
        known = [size if isinstance(size, int) else -1 for size in shape]
        return self.tf.reshape(x, known)


def function(tf: Any, call: Callable[..., Any], images: jax.ShapeDtypeStruct) -> Any:
    """Returns a `tf.function` of images [b, height, width, 3] that computes `call`.

    Args:
        tf: The module `tensorflow`.
        call: Of one array; returns a dict of arrays.
        images: What it takes; the first size is a symbol of `jax.export`.

    Raises:
        errors.UserError: an operation that is not known here.
    """
    closed = jax.make_jaxpr(flat.flat(call, images))(images)
    names = sorted(jax.eval_shape(call, images))  # as a dict's leaves are ordered

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *images.shape[1:]), images.dtype.name, name="images")
        ],
        autograph=False,
    )
    def run(images: Any) -> dict[str, Any]:
        graph = Graph(tf, closed.in_avals[0].shape[0], tf.shape(images)[0])
        return dict(zip(names, _evaluate(graph, closed, images)))

    return run


def _evaluate(graph: Graph, closed: Any, images: Any) -> list[Any]:
    known = dict(zip(closed.jaxpr.constvars, map(np.asarray, closed.consts)))
    known[closed.jaxpr.invars[0]] = images

    def value(atom: Any) -> Any:
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _results(graph, equation, inputs)))
    return [value(atom) for atom in closed.jaxpr.outvars]


def _results(graph: Graph, equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params, several = (
        equation.primitive.name,
        equation.params,
        equation.primitive.multiple_results,
    )
    sizes = [size for out in equation.outvars for size in out.aval.shape]
    if all(isinstance(one, (np.ndarray, int)) for one in (*inputs, *sizes)):
        found = equation.primitive.bind(*inputs, **params)  # a constant
        return [np.asarray(one) for one in (found if several else [found])]
    if name not in OPERATIONS:
        raise errors.UserError(
            f"--format=tflite: this model computes {name!r}, for which there is no "
            "operation here; export it as stablehlo or savedmodel"
        )
    found = OPERATIONS[name](graph, params, *inputs)
    return found if several else [found]


def _broadcast(graph: Graph, params: Params, x: Any, *_: Any) -> Any:
    shape, places = params["shape"], params["broadcast_dimensions"]
    sizes = iter(np.shape(x) if isinstance(x, np.ndarray) else x.shape)
    ones: list[Any] = [1] * len(shape)
    for place, size in zip(places, sizes):
        ones[place] = shape[place] if size is None or size != 1 else 1
    return graph.tf.broadcast_to(graph.reshape(x, ones), graph.sizes(shape))


def _dot_general(graph: Graph, params: Params, x: Any, y: Any) -> Any:
    (x_summed, y_summed), (x_batch, y_batch) = params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(letters) for _ in x.shape]
    of_y = [next(letters) for _ in y.shape]
    for ours, theirs in zip((*x_summed, *x_batch), (*y_summed, *y_batch)):
        of_y[theirs] = of_x[ours]
    used = {*x_summed, *x_batch}, {*y_summed, *y_batch}
    free = [letter for i, letter in enumerate(of_x) if i not in used[0]]
    free += [letter for i, letter in enumerate(of_y) if i not in used[1]]
    out = [of_x[i] for i in x_batch] + free
    spec = f"{''.join(of_x)},{''.join(of_y)}->{''.join(out)}"
    return graph.tf.einsum(spec, x, y)


def _convolution(graph: Graph, params: Params, x: Any, kernel: Any) -> Any:
    numbers = params["dimension_numbers"]
    plain = (
        numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
        and numbers.rhs_spec == (3, 2, 0, 1)
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == {1}
    )
    if not plain:
        raise errors.UserError(
            f"--format=tflite: a convolution of {numbers} is not known here"
        )
    return graph.tf.nn.conv2d(
        x,
        kernel,
        params["window_strides"],
        [(0, 0), *params["padding"], (0, 0)],
        dilations=params["rhs_dilation"],
    )


def _max_pool(graph: Graph, params: Params, x: Any) -> Any:
    x, window, strides = _pooled(graph, params, x, -np.inf)
    return graph.tf.nn.max_pool2d(x, window, strides, "VALID")


def _sum_pool(graph: Graph, params: Params, x: Any) -> Any:
    x, window, strides = _pooled(graph, params, x, 0.0)
    mean = graph.tf.nn.avg_pool2d(x, window, strides, "VALID")
    return mean * np.float32(np.prod(window))


def _pooled(
    graph: Graph, params: Params, x: Any, outside: float
) -> tuple[Any, Sequence[int], Sequence[int]]:
    """Padded images with the window's height and width, and its steps."""
    window, strides = params["window_dimensions"], params["window_strides"]
    if any(params["padding"][0] + params["padding"][3]) or window[0] * window[3] > 1:
        raise errors.UserError("--format=tflite: pooling over channels is not known")
    x = graph.tf.pad(x, params["padding"], constant_values=np.float32(outside))
    return x, window[1:3], strides[1:3]


def _pad(graph: Graph, params: Params, x: Any, value: Any) -> Any:
    low, high, interior = zip(*params["padding_config"])
    if min(low + high) < 0 or any(interior):
        raise errors.UserError(
            f"--format=tflite: padding of {params['padding_config']} is not known here"
        )
    return graph.tf.pad(x, list(zip(low, high)), constant_values=value)


def _slice(graph: Graph, params: Params, x: Any) -> Any:
    steps = params["strides"] or [1] * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], steps)
    return x[
        tuple(
            slice(start, limit if isinstance(limit, int) else None, step)
            for start, limit, step in bounds
        )
    ]


def _gather(graph: Graph, params: Params, x: Any, indices: Any) -> Any:
    """One slice whose place is known, as indexing with a number makes it."""
    numbers = params["dimension_numbers"]
    if np.ndim(indices) != 1 or numbers.operand_batching_dims:
        raise errors.UserError("--format=tflite: a gather is not known here")
    starts = dict(zip(numbers.start_index_map, map(int, indices)))
    where: list[Any] = []
    for i, size in enumerate(params["slice_sizes"]):
        start = starts[i] if i in starts else 0
        if i in numbers.collapsed_slice_dims:
            where.append(start)
        else:
            end = start + size if isinstance(size, int) else None
            where.append(slice(start, end))
    return x[tuple(where)]


def _power(graph: Graph, params: Params, x: Any) -> Any:
    if 1 <= params["y"] <= 4:  # exact, where a power goes through logarithms
        return functools.reduce(graph.tf.multiply, [x] * params["y"])
    return graph.tf.pow(x, np.float32(params["y"]))


# A rational function of x^2, from XLA and Eigen: within some units in the last place.
_ERF_ABOVE = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06),
    *(-5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03),
    -1.60960333262415e-02,
)
_ERF_BELOW = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03),
    *(-7.37332916720468e-03, -1.42647390514189e-02),
)


def _erf(graph: Graph, params: Params, x: Any) -> Any:
    """TFLite has none of its own."""
    x = graph.tf.clip_by_value(x, -4.0, 4.0)
    square = x * x

    def polynomial(coefficients: Sequence[float]) -> Any:
        return functools.reduce(
            lambda sum_, one: sum_ * square + np.float32(one),
            coefficients[1:],
            graph.tf.zeros_like(square) + np.float32(coefficients[0]),
        )

    return x * polynomial(_ERF_ABOVE) / polynomial(_ERF_BELOW)


def _cast(graph: Graph, params: Params, x: Any) -> Any:
    return graph.tf.cast(x, np.dtype(params["new_dtype"]).name)


Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {
    "abs": lambda g, p, x: g.tf.abs(x),
    "add": lambda g, p, x, y: g.tf.add(x, y),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda g, p, *xs: g.tf.concat(xs, p["dimension"]),
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": lambda g, p, x: x,
    "cos": lambda g, p, x: g.tf.cos(x),
    "div": lambda g, p, x, y: g.tf.divide(x, y),
    "dot_general": _dot_general,
    "eq": lambda g, p, x, y: g.tf.equal(x, y),
    "erf": _erf,
    "erfc": lambda g, p, x: 1.0 - _erf(g, p, x),
    "exp": lambda g, p, x: g.tf.exp(x),
    "expand_dims": lambda g, p, x: g.tf.expand_dims(x, p["dimensions"]),
    "gather": _gather,
    "ge": lambda g, p, x, y: g.tf.greater_equal(x, y),
    "gt": lambda g, p, x, y: g.tf.greater(x, y),
    "integer_pow": _power,
    "logistic": lambda g, p, x: g.tf.sigmoid(x),
    "lt": lambda g, p, x, y: g.tf.less(x, y),
    "max": lambda g, p, x, y: g.tf.maximum(x, y),
    "min": lambda g, p, x, y: g.tf.minimum(x, y),
    "mul": lambda g, p, x, y: g.tf.multiply(x, y),
    "neg": lambda g, p, x: g.tf.negative(x),
    "pad": _pad,
    "reduce_max": lambda g, p, x: g.tf.reduce_max(x, p["axes"]),
    "reduce_sum": lambda g, p, x: g.tf.reduce_sum(x, p["axes"]),
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
    "reshape": lambda g, p, x, *_: g.reshape(x, p["new_sizes"]),
    "rsqrt": lambda g, p, x: g.tf.math.rsqrt(x),
    "select_n": lambda g, p, at, no, yes: g.tf.where(at, yes, no),
    "sin": lambda g, p, x: g.tf.sin(x),
    "slice": _slice,
    "split": lambda g, p, x: g.tf.split(x, p["sizes"], p["axis"]),
    "sqrt": lambda g, p, x: g.tf.sqrt(x),
    "square": lambda g, p, x: g.tf.square(x),
    "squeeze": lambda g, p, x: g.tf.squeeze(x, p["dimensions"]),
    "sub": lambda g, p, x, y: g.tf.subtract(x, y),
    "tanh": lambda g, p, x: g.tf.tanh(x),
    "transpose": lambda g, p, x: g.tf.transpose(x, p["permutation"]),
}
