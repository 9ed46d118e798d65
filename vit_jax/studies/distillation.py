"""A small model that learns from a larger one, against labels alone."""

from vit_jax.studies import study
from vit_jax.studies.study import Run, Study

TAUGHT, LABELS = "distilled", "labels alone"

STUDY = Study(
    question="Does a ViT of 0.1 million parameters learn more of CIFAR-10 from the "
    "probabilities of a larger one than from the labels, in as many steps?",
    rule="Distillation is better if its mean test accuracy over three seeds is above "
    "that of the labels alone by more than twice the pooled deviation over seeds.",
    config="cifar10:adam",
    before={
        "teacher": Run(
            "cifar10:adam",
            (
                "--config.total=1 epochs",
                "--config.batch_size=64",
                "--config.model.heads=2",
                "--config.model.posemb=sincos_2d",
                "--config.optimizer.name=muon",
                "--config.optimizer.lr=4e-3",
                "--config.eval_every=",
            ),
        )
    },
    flags=(
        "--config.total=1 epochs",
        "--config.batch_size=64",
        "--config.model.name=Ti/8",
        "--config.model.width=64",
        "--config.model.mlp_width=128",
        "--config.model.heads=2",
        *study.AT_THE_END,
    ),
    arms={
        TAUGHT: (
            "--config.objective=distillation",
            "--config.distill.teacher={teacher}",
            "--config.distill.temperature=2.0",
        ),
        LABELS: (),
    },
    verdict=study.better(TAUGHT, LABELS),
)
