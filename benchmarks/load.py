"""Peak memory of loading a large checkpoint, as a ratio of its size.

    python benchmarks/load.py [--model=H/14] [--workdir=DIR]

Writes random weights of the model in several dialects, then loads each in a process of
its own that first imports everything and runs a tiny model; what it needs beyond that
is divided by the bytes of the parameters. The aim is 1.3.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TARGETS = {
    "google": "google.npz",
    "big_vision": "big_vision.npz",
    "timm": "timm",
    "hf_vit": "hf",
    "vit_jax": "orbax",
}
AIM = 1.3


def write(model: str, folder: Path, dialect: str) -> None:
    """Writes random weights, made leaf by leaf, in a dialect."""
    from vit_jax import models, tree
    from vit_jax.checkpoints import checkpoint
    from vit_jax.data.preprocessing import Preprocessing
    from vit_jax.weights import files, source

    arch = models.architecture(model, num_classes=1000)
    _, like = models.abstract(arch)
    shapes = {name: leaf.shape for name, leaf in tree.named_leaves(like)}

    def make(name: str) -> np.ndarray:
        rng = np.random.default_rng(len(name))
        return rng.standard_normal(shapes[name], np.float32)

    half = Preprocessing(arch.image_size)
    weights = files.Weights(arch, source.Tensors(shapes, make), half, dialect)
    if dialect == "vit_jax":
        described = checkpoint.Description(arch, half, None, {}, 0)
        checkpoint.write_params(folder / TARGETS[dialect], weights.params, described)
    else:
        files.write(weights, folder / TARGETS[dialect], dialect)


def load(path: str) -> None:
    """Loads a checkpoint and prints bytes of parameters, growth and seconds."""
    import jax

    import vit_jax
    from vit_jax import models

    tiny = vit_jax.create_model("mu/16", num_classes=2, image_size=32)
    jax.block_until_ready(tiny(np.zeros((1, 32, 32, 3), np.float32)))
    before, start = _peak(), time.perf_counter()
    loaded = vit_jax.load(path)
    leaves = jax.block_until_ready(jax.tree.leaves(models.split(loaded.model)[1]))
    seconds, growth = time.perf_counter() - start, _peak() - before
    size = sum(leaf.nbytes for leaf in leaves)
    print(json.dumps({"size": size, "growth": growth, "seconds": seconds}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Prints a table of the dialects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="H/14")
    parser.add_argument("--workdir", default="")
    parser.add_argument("--dialects", nargs="*", default=list(TARGETS))
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    parser.add_argument("--write", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
        return
    if args.write:
        write(args.model, Path(args.workdir), args.write)
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=args.workdir or None) as folder:
        for dialect in args.dialects:
            this = [sys.executable, __file__, f"--model={args.model}"]
            subprocess.run(
                [*this, f"--workdir={folder}", f"--write={dialect}"], check=True
            )
            done = subprocess.run(
                [*this, f"--load={Path(folder) / TARGETS[dialect]}"],
                check=True,
                capture_output=True,
                text=True,
            )
            found = json.loads(done.stdout.splitlines()[-1])
            size, growth = found["size"] / 2**30, found["growth"] / 2**30
            figures = f"{size:.2f} | {growth:.2f} | {growth / size:.2f}"
            rows.append(f"| {dialect} | {figures} | {found['seconds']:.1f} |")
            print(rows[-1], flush=True)
    print(f"| {args.model} in | GiB | peak GiB | ratio (aim {AIM}) | s |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
