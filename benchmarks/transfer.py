"""Does what is learnt on five CIFAR-10 classes help on the other five?

    python -m benchmarks.transfer --data_dir=DIR [--seeds=3] [--epochs=2] [--workdir=W]

For each seed: pre-train on all training images of five classes (even labels), then on
the other five (a) fine-tune on 500 images (20 epochs), with a run from scratch on the
same images beside it, and (b) evaluate few-shot on frozen features,
beside those of an untrained model. Accuracies are on all 5,000 test images of the
other classes. The margin counts if it exceeds twice the pooled standard deviation over
seeds; the rule was fixed before the first run. Prints a table and one line of JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from configs import base, cifar10
from vit_jax import cli, train
from vit_jax.data import catalog
from vit_jax.parallel import mesh

PRETRAIN_LABELS = (0, 2, 4, 6, 8)
SHOTS = (1, 5, 10, 25)


def write_folders(data_dir: str, target: Path) -> None:
    """Writes pretrain/ and other/ as split/class/*.jpg, the bytes as they are."""
    names = catalog.describe("cifar10", data_dir=data_dir).label_names
    for split in ("train", "test"):
        source = catalog.open_source("cifar10", split, data_dir=data_dir)
        for i in range(len(source)):
            example = source[i]
            label = int(example["label"])
            part = "pretrain" if label in PRETRAIN_LABELS else "other"
            folder = target / part / split / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:05d}.jpg").write_bytes(example["image"])


def config_for(folder: Path, *, seed: int, total: str, **changes: Any) -> Any:
    """The CIFAR-10 recipe on one of the folders, with few-shot evaluation."""
    config = cifar10.get_config()
    config.seed = seed
    config.total = total
    config.data.dataset = f"folder:{folder}"
    config.eval_every = ""
    config.save_every = ""
    config.update_from_flattened_dict(changes)
    return config


def fewshot_on(folder: Path) -> Any:
    """The few-shot evaluation on the other five classes."""
    evaluation = base.fewshot("train[:5000]", "test", dataset=f"folder:{folder}")
    evaluation.shots = SHOTS
    return evaluation


def one_seed(folders: Path, workdirs: Path, seed: int, epochs: int) -> dict[str, float]:
    """All runs of one seed; returns the accuracies by name."""
    pretrain, other = folders / "pretrain", folders / "other"
    device_mesh = mesh.make_mesh()

    def run(name: str, config: Any) -> dict[str, float]:
        return train.run(config, workdirs / f"{name}-{seed}", device_mesh)

    def with_fewshot(config: Any) -> Any:
        base.set_evals(config, test=base.classify("test"), fewshot=fewshot_on(other))
        return config

    trained = run(
        "pretrain",
        with_fewshot(config_for(pretrain, seed=seed, total=f"{epochs} epochs")),
    )
    untrained = run(
        "untrained",
        with_fewshot(
            config_for(pretrain, seed=seed, total="1 steps", **{"optimizer.lr": 0.0})
        ),
    )
    small = {"data.train_split": "train[:500]"}
    tuned = run(
        "finetune",
        config_for(
            other,
            seed=seed,
            total="20 epochs",
            init_from=str(workdirs / f"pretrain-{seed}"),
            **small,
        ),
    )
    scratch = run("scratch", config_for(other, seed=seed, total="20 epochs", **small))
    figures = {
        "pretraining top1 (its own five classes)": trained["test/top1"],
        "finetune": tuned["test/top1"],
        "finetune, from scratch": scratch["test/top1"],
    }
    for shots in SHOTS:
        key = f"fewshot/{shots}shot"
        figures[f"{shots}-shot"] = trained[key]
        figures[f"{shots}-shot, from scratch"] = untrained[key]
    return figures


def summarize(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, deviation, and for each pair the margin and whether it counts."""
    table: dict[str, dict[str, float]] = {}
    for name in runs[0]:
        values = [figures[name] for figures in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        table[name] = {"mean": statistics.mean(values), "std": deviation}
    for name in list(table):
        if (scratch := f"{name}, from scratch") in table:
            ours, theirs = table[name], table[scratch]
            pooled = ((ours["std"] ** 2 + theirs["std"] ** 2) / 2) ** 0.5
            margin = ours["mean"] - theirs["mean"]
            ours["margin"] = margin
            ours["counts"] = margin > 2 * pooled
    return table


def main() -> None:
    """Runs every seed and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workdir", default="", help="Kept, and resumed.")
    arguments = parser.parse_args()
    cli.configure_logging()
    with tempfile.TemporaryDirectory() as folder:
        workdirs = Path(arguments.workdir or folder)
        folders = workdirs / "images"
        if not folders.exists():
            write_folders(arguments.data_dir, folders)
        runs = [
            one_seed(folders, workdirs, seed, arguments.epochs)
            for seed in range(arguments.seeds)
        ]
    table = summarize(runs)
    for name, row in table.items():
        margin = f"  margin {row['margin']:+.4f}" if "margin" in row else ""
        counts = f"  counts: {row['counts']}" if "counts" in row else ""
        print(f"{name:42s} {row['mean']:.4f} +- {row['std']:.4f}{margin}{counts}")
    print(json.dumps(table))
    sys.exit(not all(row["counts"] for row in table.values() if "counts" in row))


if __name__ == "__main__":
    main()
