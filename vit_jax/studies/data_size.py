"""A ViT and a ResNet of equal compute over data sizes (the paper's Figure 4, in form).

As there: subsets of one data set, no augmentation and no other regularisation, the same
hyper-parameters for all sizes, and early stopping. Each model sees 20,000 images, or
fewer where its accuracy on 1,500 held-out ones has not grown for a third of them; a
second run takes the best checkpoint and, at a rate of 0, says how it does on the test
images and on those it was trained on. The ResNet is BiT's with units (2, 2, 2, 2) and
half the width.

CIFAR-10 is far smaller than where the paper's ViTs overtake: no crossing is asked for.
"""

import statistics

from vit_jax.studies import study
from vit_jax.studies.study import Figure, Results, Run, Study, Verdict

VIT, RESNET = "ViT", "ResNet"
SIZES = (1_000, 5_000, 20_000)
# 13.4 and 12.6 million multiply-adds an image.
MODELS: dict[str, study.Flags] = {
    VIT: (*study.SMALL, "--config.model.depth=6"),
    RESNET: (
        "--config.model.name=BiT-R26x0.5",
        *study.OF_THE_NAME,
    ),
}
NO_REGULARISATION: study.Flags = (
    "--config.data.flip=False",
    "--config.optimizer.weight_decay=0.0",
)


def _name(model: str, size: int, what: str) -> str:
    return f"{model}, {size:,}, {what}"


def verdict(results: Results) -> Verdict:
    """Returns whether below the largest size the ResNet is better and overfits less."""
    holds, told = [], []
    for size in SIZES:
        vit, resnet = (results[_name(model, size, "test")] for model in (VIT, RESNET))
        better = study.margin(resnet, vit)
        gaps = [
            [
                train - test
                for train, test in zip(
                    results[_name(model, size, "train")],
                    results[_name(model, size, "test")],
                    strict=True,
                )
            ]
            for model in (VIT, RESNET)
        ]
        overfit = study.margin(*gaps)
        if size != SIZES[-1]:
            holds.append(better.counts and overfit.counts)
        told.append(
            f"of {size:,} images {RESNET} over {VIT}: {better}, train over test "
            f"{100 * statistics.fmean(gaps[0]):.2f} points of {VIT} and "
            f"{100 * statistics.fmean(gaps[1]):.2f} of {RESNET}"
        )
    return Verdict(all(holds), "; ".join(told) + ".")


def _arms() -> dict[str, Run]:
    found = {}
    for model, flags in MODELS.items():
        for size in SIZES:
            whole = (*flags, f"--config.data.train_split=train[:{size}]")
            found[_name(model, size, "trained")] = Run(
                "cifar10:adam",
                (
                    *whole,
                    *NO_REGULARISATION,
                    "--config.total=20_000 examples",
                    "--config.batch_size=64",
                    *study.judged_on("train[48500:]"),
                    "--config.eval_every=10%",
                    "--config.save_every=",
                    "--config.keep_best=dev/top1",
                    "--config.stop_after=3",
                ),
            )
            best = f"{{{_name(model, size, 'trained')}}}:best"
            found[_name(model, size, "best")] = Run(
                "cifar10:adam",
                (
                    *whole,
                    f"--config.init_from={best}",
                    "--config.keep_head=True",
                    "--config.total=1 steps",
                    "--config.optimizer.lr=0.0",
                    "--config.evals.train=classify",
                    f"--config.evals.train.split=train[:{size}]",
                    *study.AT_THE_END,
                ),
            )
    return found


STUDY = Study(
    question="At equal compute, does a ResNet learn more than a ViT of few images of "
    "CIFAR-10, and does the ViT overfit more?",
    rule="With 1,000 and with 5,000 images, by means over three seeds of the "
    "checkpoint that was best on held-out images: the ResNet's test accuracy is above "
    "the ViT's, and the ViT's train accuracy is further above its test accuracy than "
    "the ResNet's, each by more than twice the pooled deviation over seeds. 20,000 "
    "images are reported.",
    config="cifar10:adam",
    flags=(),
    arms=_arms(),
    figures={
        _name(model, size, split): Figure(_name(model, size, "best"), f"{split}/top1")
        for model in MODELS
        for size in SIZES
        for split in ("test", "train")
    },
    verdict=verdict,
)
