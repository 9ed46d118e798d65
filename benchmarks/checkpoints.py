"""What checkpoints cost: how long a save stops the loop, digests, and reading.

    python benchmarks/checkpoints.py [--model=B/16] [--repeat=5] [--out=TABLE.md]
    python benchmarks/checkpoints.py --stall [--every=1000] [--step_seconds=0.05]

Saves and restores the state of Adam of a model, of random numbers. The best of a few
tries is told, and that of the same bytes copied in memory beside it: what else the
machine does is in all of them. The aims are at most 0.2 s a GB that a save stops the
loop, and 0.5 s a GB for digests on two cores.

--stall saves between steps that are only waits, as of a host whose device is busy, and
says which share of the time the saves stopped them: at most 1 % is the aim.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax import models
from vit_jax.checkpoints import checkpoint, digest, disk, manager, verify
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.learning import step
from vit_jax.parallel import layouts, mesh
from vit_jax.weights import pretrained


def make_state(model: str) -> tuple[Any, Any, Any]:
    """Returns an architecture, a state of it on all devices, and its shapes."""
    arch = models.architecture(model, num_classes=1000)
    _, params = models.abstract(arch)

    def build() -> Any:
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
        return step.init_state(empty, optax.adam(1e-3), ema=False)

    like = layouts.placed("fsdp", jax.eval_shape(build), mesh.make_mesh())
    rng = np.random.default_rng(0)

    def fill(x: Any) -> Any:
        array = rng.standard_normal(x.shape, np.float32).astype(x.dtype)
        return jax.device_put(array, x.sharding)

    return arch, jax.tree.map(fill, like), like


def best(action: Callable[[], Any], repeat: int) -> float:
    """Returns the least seconds of some tries."""
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measure(model: str, repeat: int, root: Path) -> tuple[float, dict[str, float]]:
    """Returns the GB of a state, and what is done with it in seconds."""
    arch, state, like = make_state(model)
    leaves = manager._leaves(manager._items(state))
    size = sum(x.nbytes for x in leaves.values()) / 1e9
    on_host = [np.asarray(x) for x in leaves.values()]
    found = {
        "a copy of it in memory": best(lambda: [x.copy() for x in on_host], repeat)
    }
    found["digests compiled, once a run"] = best(
        lambda: digest.prepare(leaves.values()), 1
    )
    found["digests on the device"] = best(lambda: digest.on_device(leaves), repeat)
    found["digests on the host"] = best(
        lambda: [digest.on_host(x) for x in on_host], repeat
    )
    store, number = manager.Checkpoints(root / "run", keep=1), 0
    blocked, whole = [], []
    for number in range(1, repeat + 1):
        described = checkpoint.Description(
            arch, Preprocessing(arch.image_size), None, {}, number
        )
        began = time.perf_counter()
        store.save(state, described)
        blocked.append(time.perf_counter() - began)
        store.close()
        whole.append(time.perf_counter() - began)
    found["a save stops the loop"] = min(blocked)
    found["a save is on disk"] = min(whole)
    folder = root / "run" / "checkpoints" / str(number)
    found["read by orbax alone"] = best(
        lambda: [disk.read_item(folder, i) for i in ("params", "optimizer")], repeat
    )
    found["verified, all of it (a workdir is loaded)"] = best(
        lambda: verify.check(folder), repeat
    )
    found["restored and verified on the device"] = best(
        lambda: manager.Checkpoints(root / "run").restore(like), repeat
    )
    found["`load` of the step's folder, parameters alone"] = best(
        lambda: pretrained.load(folder), repeat
    )
    return size, found


def stall(model: str, every: int, seconds: float, repeat: int, root: Path) -> str:
    """Returns what saves cost a loop of simulated steps, as a line of Markdown."""
    arch, state, like = make_state(model)
    store = manager.Checkpoints(root / "run", keep=1)
    store.prepare(like)
    stopped, began = [], time.perf_counter()
    for number in range(1, repeat + 1):
        for _ in range(every):
            time.sleep(seconds)
        described = checkpoint.Description(
            arch, Preprocessing(arch.image_size), None, {}, number * every
        )
        before = time.perf_counter()
        store.save(state, described)
        stopped.append(time.perf_counter() - before)
    whole = time.perf_counter() - began
    store.close()
    each = ", ".join(f"{one:.2f}" for one in stopped)
    return (
        f"{repeat} saves of {model} with Adam, one in {every} steps of {seconds:g} s, "
        f"stopped it for {each} s: {sum(stopped) / whole:.2%} of {whole:.0f} s"
    )


def table(model: str, size: float, found: dict[str, float]) -> str:
    """Returns the figures as Markdown."""
    count = f"{jax.device_count()} {jax.default_backend()} device(s)"
    lines = [
        "# What checkpoints cost",
        "",
        f"`python benchmarks/checkpoints.py --model={model}`: a state of Adam of "
        f"{size:.2f} GB on {count}, the best of the tries.",
        "",
        "| | s | s a GB |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {s:.3f} | {s / size:.3f} |" for what, s in found.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Prints the table, and writes it where it is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="B/16")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stall", action="store_true")
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--step_seconds", type=float, default=0.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.stall:
            place = Path(folder)
            print(stall(given.model, given.every, given.step_seconds, 3, place))
            return
        size, found = measure(given.model, given.repeat, Path(folder))
    text = table(given.model, size, found)
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
