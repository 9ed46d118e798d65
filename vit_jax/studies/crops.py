"""Whole images or random crops of them, in a short fine-tuning."""

from vit_jax.studies import layer_decay, study
from vit_jax.studies.study import Results, Study, Verdict

WHOLE, SHIFTED, CROPPED = "whole images", "shifted by up to 4 pixels", "random crops"


def verdict(results: Results) -> Verdict:
    """Returns whether whole images are at least as good as random crops."""
    crops, shifts = (
        study.margin(results[WHOLE], results[other]) for other in (CROPPED, SHIFTED)
    )
    return Verdict(
        not crops.against,
        f"{WHOLE} over {CROPPED}: {crops}; over {SHIFTED}: {shifts}.",
    )


STUDY = Study(
    question="In a short fine-tuning on few images, are random crops of 5 to 100 % of "
    "the area, as of pre-training, worse than whole images?",
    rule="Whole images are at least as good if the mean test accuracy over three seeds "
    "of random crops is not above theirs by more than twice the pooled deviation over "
    "seeds. Shifts are reported.",
    config="cifar10:adam",
    before=layer_decay.STUDY.before,
    flags=(
        *study.SMALL,
        "--config.init_from={pretrained}",
        "--config.data.classes=dog,frog,horse,ship,truck",
        "--config.data.train_split=train[:2500]",
        "--config.total=8 epochs",
        "--config.optimizer.lr=1e-3",
        *study.AT_THE_END,
    ),
    arms={
        WHOLE: (),
        SHIFTED: ("--config.data.train.transform=random_crop_pad",),
        CROPPED: ("--config.data.train.transform=inception_crop",),
    },
    verdict=verdict,
)
