"""Cycles of one encoder block, forward and backward, by the TPU compiler's estimate.

    pip install 'vit_jax[plan]'
    python -m benchmarks.block --topology=v5e:1x1 --model=B/16 --batch=32 [OPTION ...]

An option KEY=VALUE changes the architecture: logits_dtype=float32, dropout=0.1. In
bfloat16 as the recipes are. Takes minutes, nearly all in code generation. Prints one
line of JSON: million cycles of one device, milliseconds, MFU; --top=N lists where the
cycles go.
"""

import argparse
import ast
import json
import os
import re

from vit_jax.plan import tpus

os.environ.update(tpus.COMPILER.environment)

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from vit_jax import models
from vit_jax.models import blocks
from vit_jax.plan import hlo, topology, work

Params = dict


def lowered(
    arch: models.Architecture, batch: int, device: jax.Device
) -> jax.stages.Lowered:
    """Returns value and gradients of a block, lowered for a device."""
    block = nnx.eval_shape(lambda: blocks.Block(arch, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(block)
    here = SingleDeviceSharding(device)

    def abstract(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

    drops = arch.dropout or arch.attention_dropout or arch.drop_path
    path = jnp.float32(arch.drop_path) if arch.drop_path else None

    def both(params: Params, x: jax.Array, gradient: jax.Array, seed: jax.Array):
        key = jax.random.wrap_key_data(seed) if drops else None

        def apply(params: Params, x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params)(x, key, path=path)

        y, back = jax.vjp(apply, params, x)
        return y, back(gradient)

    shape = (batch, arch.tokens, arch.width)
    tokens = abstract(jax.ShapeDtypeStruct(shape, jnp.dtype(arch.compute_dtype)))
    params = jax.tree.map(abstract, nnx.to_pure_dict(state))
    seed = abstract(jax.ShapeDtypeStruct((2,), jnp.uint32))
    return jax.jit(both).lower(params, tokens, tokens, seed)


def macs(arch: models.Architecture) -> int:
    """Multiply-adds of a block's forward pass for an image."""
    one = models.forward_macs(arch.replace(depth=1))
    return models.forward_macs(arch.replace(depth=2)) - one


def top(module: hlo.Module, count: int) -> list[str]:
    """Returns the operations that take most cycles, a line each."""
    rows = []
    for _, instruction in module.instructions():
        estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        source = re.search(r'op_name="([^"]*)"', instruction.attributes)
        if estimate:
            what = f"{instruction.name} {instruction.type[:60]}"
            rows.append((int(estimate[1]), what, source[1][-60:] if source else ""))
    return [f"{c:>9,} {what} {where}" for c, what, where in sorted(rows)[::-1][:count]]


def main() -> None:
    """Compiles one block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--model", default="B/16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--top", type=int, default=0)
    parser.add_argument("options", nargs="*", metavar="OPTION")
    given = parser.parse_args()
    options = {"compute_dtype": "bfloat16"}
    for text in given.options:
        key, _, value = text.partition("=")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    arch = models.architecture(given.model, num_classes=0, **options)
    place = topology.parse(given.topology)
    device = topology.devices(place)[0]
    module = hlo.Module(lowered(arch, given.batch, device).compile().as_text())
    cycles, missing = work.cycles(module)
    for line in top(module, given.top):
        print(line)
    figures = {"model": given.model, "topology": place.name, "batch": given.batch}
    figures |= {"options": options, "mcycles": cycles / 1e6}
    if place.chip.clock:
        seconds = cycles / place.chip.clock
        needed = 6 * macs(arch) * given.batch
        figures |= {"ms": seconds * 1e3}
        figures |= {"mfu": needed / seconds / place.chip.peak_flops}
    figures["flops_ratio"] = work.flops(module) / (6 * macs(arch) * given.batch)
    print(json.dumps(figures | {"without_estimate": dict(missing)}))


if __name__ == "__main__":
    main()
