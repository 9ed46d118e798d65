"""Masked patch prediction on CIFAR-10: better than a constant, and does it transfer?

    python benchmarks/masked.py --data_dir=DIR [--targets=mean_color,downsampled,pixels]
                                [--seeds=3] [--epochs=20] [--workdir=W]

Each target is trained with `configs/masked.py:cifar10` and measured on all 10,000 test
images beside the best constant prediction. Then the model of the first target is
fine-tuned on a tenth of the labels, `epochs` epochs, with a run from scratch on the
same images beside it, `seeds` times (0: not at all). The rules were fixed before the
first run: mean colours are right at least 10 points more often than the most frequent
colour, and fine-tuning beats scratch by more than twice the pooled deviation. A kept
workdir is resumed. Prints a table and one line of JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from configs import base, cifar10
from configs import masked as recipe
from vit_jax import cli, train
from vit_jax.parallel import mesh

MARGIN = 0.1
LABELS = "train[:10%]"


def pretrain(arguments: argparse.Namespace, target: str, workdir: Path) -> dict:
    """Masked prediction of one target; returns its figures on the test images."""
    config = recipe.get_config("cifar10")
    config.masked.target = target
    config.data.data_dir = arguments.data_dir
    return train.run(config, workdir, mesh.make_mesh())


def finetune(
    arguments: argparse.Namespace, seed: int, init_from: str, workdir: Path
) -> float:
    """Test accuracy after training on a tenth of the labels."""
    config = cifar10.get_config()
    config.seed = seed
    config.total = f"{arguments.epochs} epochs"
    config.eval_every = ""
    config.save_every = ""
    config.init_from = init_from
    config.data.data_dir = arguments.data_dir
    config.data.train_split = LABELS
    base.set_evals(config, test=base.classify("test"))
    return train.run(config, workdir, mesh.make_mesh())["test/top1"]


def summarize(tuned: list[float], scratch: list[float]) -> dict[str, Any]:
    """Means, deviations, the margin and whether it counts."""
    means = [statistics.mean(values) for values in (tuned, scratch)]
    several = len(tuned) > 1
    stds = [statistics.stdev(v) if several else 0.0 for v in (tuned, scratch)]
    pooled = ((stds[0] ** 2 + stds[1] ** 2) / 2) ** 0.5
    margin = means[0] - means[1]
    return {
        "finetune": {"mean": means[0], "std": stds[0]},
        "scratch": {"mean": means[1], "std": stds[1]},
        "margin": margin,
        "counts": margin > 2 * pooled,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the two tables and the figures as JSON."""
    print("| target | accuracy | most frequent | loss | of a constant |")
    print("|---|---|---|---|---|")
    for target, row in result["masked"].items():
        shares = ["", ""]
        if "test/accuracy" in row:
            names = ("test/accuracy", "test/majority")
            shares = [f"{100 * row[name]:.1f} %" for name in names]
        losses = [f"{row[name]:.4f}" for name in ("test/loss", "test/constant_loss")]
        print(f"| {' | '.join([target, *shares, *losses])} |")
    if labels := result["labels"]:
        for name in ("finetune", "scratch"):
            mean, deviation = labels[name]["mean"], labels[name]["std"]
            print(f"{name} on {LABELS}: {mean:.4f} +- {deviation:.4f}")
        print(f"margin {labels['margin']:+.4f}, counts: {labels['counts']}")
    print(json.dumps(result))


def passes(result: dict[str, Any]) -> bool:
    """Whether the rules hold for what was run."""
    colour = result["masked"].get("mean_color")
    better = not colour or (colour["test/accuracy"] >= colour["test/majority"] + MARGIN)
    return better and (not result["labels"] or result["labels"]["counts"])


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--targets", default="mean_color,downsampled,pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workdir", default="", help="Kept, and resumed.")
    arguments = parser.parse_args()
    cli.configure_logging()
    targets = arguments.targets.split(",")
    with tempfile.TemporaryDirectory() as folder:
        workdirs = Path(arguments.workdir or folder)
        figures = {t: pretrain(arguments, t, workdirs / t) for t in targets}
        tuned, scratch = (
            [
                finetune(arguments, seed, init_from, workdirs / f"{name}-{seed}")
                for seed in range(arguments.seeds)
            ]
            for name, init_from in (
                ("finetune", str(workdirs / targets[0])),
                ("scratch", ""),
            )
        )
    labels = summarize(tuned, scratch) if tuned else {}
    result = {"masked": figures, "labels": labels}
    show(result)
    sys.exit(not passes(result))


if __name__ == "__main__":
    main()
