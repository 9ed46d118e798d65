"""Fine-tuning at a higher resolution: what becomes of the position table (3.2)."""

from vit_jax.studies import study
from vit_jax.studies.study import Results, Run, Study, Verdict

INTERPOLATED, NEAREST, FRESH = "interpolated", "nearest", "drawn anew"


def verdict(results: Results) -> Verdict:
    """Returns whether interpolation beats new positions, and copies do not beat it."""
    new, copies = (
        study.margin(results[INTERPOLATED], results[other])
        for other in (FRESH, NEAREST)
    )
    return Verdict(
        new.counts and not copies.against,
        f"{INTERPOLATED} over {FRESH}: {new}; over {NEAREST}: {copies}.",
    )


STUDY = Study(
    question="Is a position table that is interpolated for larger images better after "
    "a short fine-tuning than one of copies, or one drawn anew?",
    rule="From one model of CIFAR-10 at 32 px, fine-tuned at 48 px: interpolation is "
    "better if its mean test accuracy over three seeds is above that of positions "
    "drawn anew by more than twice the pooled deviation over seeds, and that of copies "
    "is not above it by as much.",
    config="cifar10:adam",
    before={
        "pretrained": Run(
            "cifar10:adam",
            (
                *study.SMALL,
                "--config.total=2 epochs",
                "--config.batch_size=64",
                "--config.eval_every=",
            ),
        )
    },
    flags=(
        *study.SMALL,
        "--config.model.image_size=(48,48)",
        "--config.init_from={pretrained}",
        "--config.keep_head=True",
        "--config.data.train_split=train[:5000]",
        "--config.total=2 epochs",
        "--config.optimizer.lr=3e-4",
        *study.AT_THE_END,
    ),
    arms={
        INTERPOLATED: ("--config.model.posemb_resample=corners",),
        NEAREST: ("--config.model.posemb_resample=nearest",),
        FRESH: ("--config.model.posemb_resample=fresh",),
    },
    verdict=verdict,
)
