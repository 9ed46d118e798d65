"""Layer decay against one rate, in fine-tuning on few images of other classes."""

from vit_jax.studies import study
from vit_jax.studies.study import Run, Study

DECAY, ONE = "layer decay 0.75", "one rate"

STUDY = Study(
    question="Does a layer decay of 0.75 (MAE, BEiT) fine-tune better than one rate "
    "for all layers, from 5 classes of CIFAR-10 to 500 images of the other 5?",
    rule="With the best of three rates each, chosen on other images by the first seed, "
    "layer decay is better if its mean test accuracy over three seeds is above that of "
    "one rate by more than twice the pooled deviation over seeds.",
    config="cifar10:adam",
    before={
        "pretrained": Run(
            "cifar10:adam",
            (
                *study.SMALL,
                "--config.data.classes=airplane,automobile,bird,cat,deer",
                "--config.total=3 epochs",
                "--config.batch_size=64",
                "--config.eval_every=",
            ),
        )
    },
    flags=(
        *study.SMALL,
        "--config.init_from={pretrained}",
        "--config.data.classes=dog,frog,horse,ship,truck",
        "--config.data.train_split=train[:500]",
        "--config.total=20 epochs",
        *study.AT_THE_END,
    ),
    arms={DECAY: ("--config.optimizer.layer_decay=0.75",), ONE: ()},
    settings=study.rates("3e-4", "1e-3", "3e-3"),
    dev=study.judged_on("train[500:2500]"),
    verdict=study.better(DECAY, ONE),
)
