"""Position embeddings in miniature: the paper's Table 8 on CIFAR-10.

    python -m benchmarks.posemb --data_dir=DIR [--seeds=3] [--workdir=W] [--total=T]

A small ViT (4x4 patches, an 8x8 grid, class token) is trained from scratch with each
kind of position embedding and each place for it, three seeds each; accuracies are on
all 10,000 test images. Two rules were fixed before the first run: without positions
it is at least 3 points worse than the mean of the others, and those others differ by at
most 1.5 points. Prints a table, the rules and one line of JSON, whatever they say.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from configs import base, cifar10
from vit_jax import cli, train
from vit_jax.parallel import mesh

VARIANTS: tuple[tuple[str, str], ...] = (
    ("none", "stem"),
    *(("learned", at) for at in ("stem", "every", "shared")),
    *(("learned_2d", at) for at in ("stem", "every", "shared")),
    ("relative", "every"),
    ("sincos_1d", "stem"),
    ("sincos_2d", "stem"),
)
WORSE_WITHOUT = 0.03
SPREAD = 0.015


def config_for(posemb: str, posemb_at: str, *, seed: int, args: Any) -> Any:
    """The CIFAR-10 recipe, smaller and shorter, with one kind of positions."""
    config = cifar10.get_config()
    config.seed = seed
    config.total = args.total
    config.batch_size = 64
    config.eval_every = ""
    config.save_every = ""
    config.data.data_dir = args.data_dir
    config.model.pool = "token"
    config.model.width = 64
    config.model.depth = 3
    config.model.mlp_width = 128
    config.model.heads = 4
    config.model.posemb = posemb
    config.model.posemb_at = posemb_at
    config.optimizer.lr = 2e-3
    base.set_evals(config, test=base.classify("test"))
    return config


def judge(table: dict[str, list[float]]) -> dict[str, Any]:
    """Mean and deviation of each variant, and what the two rules say."""
    means = {name: statistics.mean(values) for name, values in table.items()}
    deviations = {
        name: statistics.stdev(values) if len(values) > 1 else 0.0
        for name, values in table.items()
    }
    others = [mean for name, mean in means.items() if not name.startswith("none")]
    without = next(mean for name, mean in means.items() if name.startswith("none"))
    gap = statistics.mean(others) - without
    spread = max(others) - min(others)
    return {
        "mean": means,
        "std": deviations,
        "gap": gap,
        "spread": spread,
        "worse without positions": gap >= WORSE_WITHOUT,
        "the others alike": spread <= SPREAD,
    }


def main() -> None:
    """Runs every variant and seed, the finished ones of a kept workdir excepted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--total", default="1 epochs")
    parser.add_argument("--workdir", default="", help="Kept, and resumed.")
    args = parser.parse_args()
    cli.configure_logging()
    table: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workdirs = Path(args.workdir or folder)
        for seed in range(args.seeds):  # seeds outside: a part is a whole table
            for posemb, at in VARIANTS:
                config = config_for(posemb, at, seed=seed, args=args)
                workdir = workdirs / f"{posemb}-{at}-{seed}"
                figures = train.run(config, workdir, mesh.make_mesh())
                name = f"{posemb}, {at}"
                table.setdefault(name, []).append(figures["test/top1"])
                print(f"seed {seed} {name}: {figures['test/top1']:.4f}", flush=True)
    judged = judge(table)
    print("| positions | accuracy (mean +- deviation) |\n|---|---|")
    for name, values in table.items():
        shown = f"{statistics.mean(values):.4f} +- {judged['std'][name]:.4f}"
        print(f"| {name} | {shown} |")
    print(f"none is {judged['gap']:.4f} below the mean of the others: ", end="")
    print("as the paper" if judged["worse without positions"] else "not as the paper")
    print(f"the others differ by up to {judged['spread']:.4f}: ", end="")
    print("as the paper" if judged["the others alike"] else "not as the paper")
    print(json.dumps(judged | {"runs": table}))


if __name__ == "__main__":
    main()
