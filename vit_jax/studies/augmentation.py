"""Presets of augmentation against flips alone, with few images.

The constants of AugReg's RandAugment are those of 224 px, where a shift is up to 100
pixels and a hole 80 wide: at 32 px whoever has them loses the picture of every third
image or so at level 10 and above. They are here as published.
"""

from vit_jax.studies import study
from vit_jax.studies.study import Results, Study, Verdict

FLIP = "flip alone"
MIX = "--config.data.mix."


def verdict(results: Results) -> Verdict:
    """Returns which presets help and which harm; it holds where one helps."""
    margins = {
        name: study.margin(figures, results[FLIP])
        for name, figures in results.items()
        if name != FLIP
    }
    words = [
        f"{name} {'helps' if m.counts else 'harms' if m.against else 'neither'}: {m}"
        for name, m in margins.items()
    ]
    return Verdict(any(m.counts for m in margins.values()), "; ".join(words) + ".")


STUDY = Study(
    question="Do the augmentations that people train with help a small ViT that sees "
    "1,000 images of CIFAR-10 forty times each?",
    rule="At equal steps a preset helps (harms) if its mean test accuracy over three "
    "seeds is above (below) that of flips alone by more than twice the pooled "
    "deviation over seeds. The study holds if one preset helps.",
    config="cifar10:adam",
    flags=(
        "--config.data.train_split=train[:1000]",
        "--config.total=40 epochs",
        "--config.batch_size=64",
        *study.SMALL,
        *study.AT_THE_END,
    ),
    arms={
        FLIP: (),
        "AugReg light2": (
            "--config.data.train.auto_augment=randaug(2,10)",
            f"{MIX}mixup=0.2",
        ),
        "AugReg medium2": (
            "--config.data.train.auto_augment=randaug(2,15)",
            f"{MIX}mixup=0.5",
        ),
        "3-Augment and CutMix": (
            "--config.data.train.auto_augment=3a",
            "--config.data.train.color_jitter=0.3,",
            f"{MIX}form=timm",
            f"{MIX}cutmix=1.0",
        ),
        "timm's rand-m9": ("--config.data.train.auto_augment=rand-m9-mstd0.5-inc1",),
    },
    verdict=verdict,
)
