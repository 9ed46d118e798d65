"""Masked patch prediction (the paper's B.1.2): what is predicted, and what it is worth.

The paper's three targets: the mean colour of a patch in 3 bits a channel, of which
there are 512; the same of each cell of the patch downsized to 4x4; all its pixels, by
squared error. With each seed a model of 16 patches of 8x8 pixels learns each of them
for one epoch and is then fine-tuned on a tenth of the labels, beside one from scratch.
"""

import statistics

from vit_jax.studies import study
from vit_jax.studies.study import Figure, Results, Run, Study, Verdict

SCRATCH = "from scratch"
TARGETS = {
    "mean colours": "mean_color",
    "4x4 colours": "downsampled",
    "pixels": "pixels",
}
RIGHT, CONSTANT = "{}, right", "{}, the most frequent"
LOSS, CONSTANT_LOSS = "{}, loss", "{}, of a constant"
TUNED = "from {}"
MARGIN = 0.1


def verdict(results: Results) -> Verdict:
    """Returns whether colours are predicted, and pre-training on means is worth it."""
    gains = {
        target: statistics.fmean(results[RIGHT.format(target)])
        - statistics.fmean(results[CONSTANT.format(target)])
        for target in TARGETS
        if RIGHT.format(target) in results
    }
    margins = {
        target: study.margin(results[TUNED.format(target)], results[SCRATCH])
        for target in TARGETS
    }
    means, *_ = TARGETS
    told = [
        f"{name} right over the most frequent: {100 * gain:+.2f} points"
        for name, gain in gains.items()
    ]
    told += [
        f"{TUNED.format(name)} over {SCRATCH}: {one}" for name, one in margins.items()
    ]
    return Verdict(
        gains[means] >= MARGIN and margins[means].counts, "; ".join(told) + "."
    )


def _figures() -> dict[str, Figure]:
    found = {}
    for target in TARGETS:
        if target != "pixels":  # squared error, of which none is right
            found[RIGHT.format(target)] = Figure(target, "test/accuracy")
            found[CONSTANT.format(target)] = Figure(target, "test/majority")
        found[LOSS.format(target)] = Figure(target, "test/loss")
        found[CONSTANT_LOSS.format(target)] = Figure(target, "test/constant_loss")
    for arm in (*map(TUNED.format, TARGETS), SCRATCH):
        found[arm] = Figure(arm, "test/top1")
    return found


STUDY = Study(
    question="Does a small ViT that predicts masked patches of CIFAR-10 do better than "
    "a constant, and does that help where there is a tenth of the labels?",
    rule="Over three seeds, by their means: mean colours are right at least 10 points "
    "more often than the most frequent colour, and the test accuracy of fine-tuning "
    "from them is above that from scratch by more than twice the pooled deviation over "
    "seeds. The other targets are reported.",
    config="cifar10:adam",
    flags=(
        "--config.data.train_split=train[:10%]",
        *study.SMALL,
        "--config.total=10 epochs",
        *study.AT_THE_END,
    ),
    arms={
        **{
            name: Run(
                "masked:cifar10",
                (
                    *study.SMALL,
                    "--config.total=1 epochs",
                    f"--config.masked.target={target}",
                    *study.AT_THE_END,
                ),
            )
            for name, target in TARGETS.items()
        },
        **{TUNED.format(name): (f"--config.init_from={{{name}}}",) for name in TARGETS},
        SCRATCH: (),
    },
    figures=_figures(),
    verdict=verdict,
)
