"""Position embeddings in miniature: the paper's Table 8 (D.4) on CIFAR-10.

A small ViT with an 8x8 grid and a class token, from scratch with each kind of position
embedding and each place for it.
"""

import statistics

from vit_jax.studies import study
from vit_jax.studies.study import Results, Study, Verdict

NONE = "none"
# Kinds of positions, and where they are added.
VARIANTS: tuple[tuple[str, str], ...] = (
    *(("learned", at) for at in ("stem", "every", "shared")),
    *(("learned_2d", at) for at in ("stem", "every", "shared")),
    ("relative", "every"),
    ("sincos_1d", "stem"),
    ("sincos_2d", "stem"),
)
WORSE_WITHOUT, SPREAD = 0.03, 0.015


def verdict(results: Results) -> Verdict:
    """Returns whether positions help, and the kinds of them are alike."""
    means = {arm: statistics.fmean(figures) for arm, figures in results.items()}
    without = means.pop(NONE)
    gap = statistics.fmean(means.values()) - without
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    spread = means[best] - means[worst]
    return Verdict(
        gap >= WORSE_WITHOUT and spread <= SPREAD,
        f"Without positions {100 * gap:.2f} points below the mean of the others "
        f"({100 * WORSE_WITHOUT:g} are asked), which differ by up to "
        f"{100 * spread:.2f} points ({100 * SPREAD:g} are allowed): {best} over "
        f"{worst}.",
    )


STUDY = Study(
    question="Does a small ViT need to know where its patches are, and does it matter "
    "in which form it is told?",
    rule="After one epoch of CIFAR-10, by mean test accuracy over three seeds, the "
    "model without positions is at least 3 points worse than the mean of the others, "
    "and the others differ by at most 1.5 points.",
    config="cifar10:adam",
    flags=(
        "--config.total=1 epochs",
        "--config.batch_size=64",
        "--config.model.pool=token",
        "--config.model.width=64",
        "--config.model.depth=3",
        "--config.model.mlp_width=128",
        "--config.model.heads=4",
        "--config.optimizer.lr=2e-3",
        *study.AT_THE_END,
    ),
    arms={
        NONE: ("--config.model.posemb=none",),
        **{
            f"{kind}, {at}": (
                f"--config.model.posemb={kind}",
                f"--config.model.posemb_at={at}",
            )
            for kind, at in VARIANTS
        },
    },
    verdict=verdict,
)
