"""Attention over the image, over neighbours and within a patch, from scratch."""

from vit_jax.studies import study
from vit_jax.studies.study import Results, Study, Verdict

GLOBAL, NEAR, ALONE = "all patches", "3x3 neighbours", "its own patch"


def verdict(results: Results) -> Verdict:
    """Returns whether attention among all patches beats none among them."""
    whole, near = (
        study.margin(results[GLOBAL], results[other]) for other in (ALONE, NEAR)
    )
    return Verdict(
        whole.counts,
        f"{GLOBAL} over {ALONE}: {whole}; over {NEAR}: {near}.",
    )


STUDY = Study(
    question="How much of what a small ViT learns of 5,000 images of CIFAR-10 needs "
    "attention among patches?",
    rule="Attention is needed if the mean test accuracy over three seeds of attention "
    "among all patches is above that of attention within each patch alone by more than "
    "twice the pooled deviation over seeds. Neighbours are reported.",
    config="cifar10:adam",
    flags=(
        *study.SMALL,
        "--config.data.train_split=train[:5000]",
        "--config.total=10 epochs",
        "--config.batch_size=64",
        *study.AT_THE_END,
    ),
    arms={
        GLOBAL: (),
        NEAR: (
            "--config.model.attention_mask=local",
            "--config.model.attention_window=1",
        ),
        ALONE: (
            "--config.model.attention_mask=block",
            "--config.model.attention_window=1",
        ),
    },
    verdict=verdict,
)
