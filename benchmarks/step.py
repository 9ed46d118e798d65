"""Time of a gradient step, ours and PyTorch's, interleaved in one process.

    python benchmarks/step.py [--models=S/16] [--batch=16] [--rounds=5]

Forward and backward of softmax cross-entropy over all parameters at 224 px on a CPU, in
float32, against Hugging Face's ViT with the same dimensions, GELU and parameter count.
Prints a table and one line of JSON; ratio: ours over theirs, of CPU seconds (user and
system, over all threads), which other programs on the machine hardly change, and of the
time on the wall. GPUs: `gpu.py`.

Ours is cut into the microbatches that a training step on a CPU takes by itself (S/16:
four images each). XLA's CPU client takes its memory anew for every step, and the kernel
clears it: 1.7 GB for 16 images of S/16 in one piece, 0.5 GB for four.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Else torch's idle threads spin on the cores while it is our turn.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from vit_jax import models
from vit_jax.learning.step import accumulate
from vit_jax.parallel import fitting

CLASSES, PIXELS = 1000, 224
Step = Callable[[], Any]


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images [b, h, w, 3] and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size, PIXELS, PIXELS, 3), np.float32)
    return images, rng.integers(CLASSES, size=size)


def our_step(architecture: models.Architecture, size: int) -> Step:
    """Returns a function that takes one gradient step's time."""
    model = models.create(architecture, rngs=nnx.Rngs(0))
    graphdef, params = models.split(model)
    images, labels = (jnp.asarray(x) for x in batch(size))

    parts = fitting.microbatches(architecture, size, jax.devices()[0].device_kind)

    def loss(params, batch, key):
        logits = models.merge(graphdef, params)(batch["image"])
        scores = jax.nn.log_softmax(logits)
        taken = jnp.take_along_axis(scores, batch["label"][:, None], axis=1)
        return -jnp.mean(taken), {}

    @jax.jit
    def step(params, images, labels):
        rows = {"image": images, "label": labels}
        key = jax.random.key(0)
        return accumulate(loss, params, rows, key, (), parts, lambda grads: grads)

    return lambda: jax.block_until_ready(step(params, images, labels))


def huggingface(arch: models.Architecture) -> torch.nn.Module:
    """The same model in transformers; its logits are `output.logits`."""
    import transformers

    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=arch.width,
            num_hidden_layers=arch.depth,
            num_attention_heads=arch.heads,
            intermediate_size=arch.mlp_width,
            image_size=PIXELS,
            patch_size=arch.patch[0],
            num_labels=CLASSES,
            hidden_act="gelu_pytorch_tanh",
        )
    )


def torch_step(arch: models.Architecture, size: int) -> Step:
    """Returns a function that takes one gradient step's time."""
    model = huggingface(arch).train()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == models.count_parameters(arch), f"{count} parameters"
    images, labels = (torch.from_numpy(x) for x in batch(size))
    images = images.permute(0, 3, 1, 2).contiguous()

    def step():
        model.zero_grad(set_to_none=True)
        logits = model(images).logits
        torch.nn.functional.cross_entropy(logits, labels).backward()

    return step


class Seconds(NamedTuple):
    """What a step took on the wall and of the processors, in each round."""

    wall: list[float]
    cpu: list[float]


def measure(steps: dict[str, Step], rounds: int) -> dict[str, Seconds]:
    """Seconds of each step in each round; the order alternates."""
    for step in steps.values():
        step()
        step()
    seconds = {name: Seconds([], []) for name in steps}
    for i in range(rounds):
        for name in list(steps)[:: 1 if i % 2 else -1]:
            start, spent = time.perf_counter(), time.process_time()
            steps[name]()
            seconds[name].cpu.append(time.process_time() - spent)
            seconds[name].wall.append(time.perf_counter() - start)
    return seconds


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one model and prints its rows of the table."""
    arch = models.architecture(
        name,
        num_classes=CLASSES,
        image_size=PIXELS,
        compute_dtype="float32",
        unroll=arguments.unroll,
        remat=arguments.remat,
    )
    steps = {
        "vit_jax": our_step(arch, arguments.batch),
        "transformers": torch_step(arch, arguments.batch),
    }
    seconds = measure(steps, arguments.rounds)
    wall = {key: statistics.median(found.wall) for key, found in seconds.items()}
    cpu = {key: statistics.median(found.cpu) for key, found in seconds.items()}
    flops = 6 * models.forward_macs(arch) * arguments.batch
    for key, median in wall.items():
        rounds = seconds[key].wall
        print(
            f"{name:8} {key:14} {median * 1e3:9.1f} ms {cpu[key]:7.3f} CPU s "
            f"{arguments.batch / median:8.1f} images/s {flops / median / 1e12:7.3f} "
            f"TFLOP/s  rounds {min(rounds) * 1e3:.0f}-{max(rounds) * 1e3:.0f} ms"
        )
    ratio, cpu_ratio = (x["vit_jax"] / x["transformers"] for x in (wall, cpu))
    print(f"{name:8} ratio ours/theirs {cpu_ratio:.3f} of CPU seconds, {ratio:.3f}")
    return {
        "model": name,
        "batch": arguments.batch,
        "dtype": "float32",
        "unroll": arch.unroll,
        "remat": arch.remat,
        "ms": {key: round(median * 1e3, 2) for key, median in wall.items()},
        "cpu_ms": {key: round(median * 1e3, 2) for key, median in cpu.items()},
        "ratio": round(ratio, 4),
        "cpu_ratio": round(cpu_ratio, 4),
    }


def main() -> None:
    """Measures each model and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="S/16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unroll", type=int, default=0)
    parser.add_argument("--remat", default="none")
    arguments = parser.parse_args()
    results = [compare(n, arguments) for n in arguments.models.split(",")]
    device = jax.devices()[0].device_kind
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    cores = len(os.sched_getaffinity(0))
    print(
        json.dumps({"device": device, "cores": cores, **versions, "results": results})
    )


if __name__ == "__main__":
    main()
