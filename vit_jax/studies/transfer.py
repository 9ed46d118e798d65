"""What is learnt of five classes, on the other five: the paper's transfer, in form.

With each seed a model is pre-trained on five classes; what it is worth on the other
five is asked by fine-tuning it, and by few-shot evaluation of its frozen features. Runs
with a rate of 0 leave the weights as they are: they evaluate.
"""

from vit_jax.studies import study
from vit_jax.studies.study import Figure, Results, Run, Study, Verdict

SEEN = "--config.data.classes=airplane,bird,deer,frog,ship"  # the even labels
OTHERS = "--config.data.classes=automobile,cat,dog,horse,truck"
SHOTS = (1, 5, 10, 25)
TUNED, SCRATCH = "fine-tuned", "from scratch"
FEATURES, UNTRAINED = "frozen features", "untrained features"
FEWSHOT: study.Flags = (
    OTHERS,
    "--config.total=1 steps",
    "--config.optimizer.lr=0.0",
    "--config.evals=none",
    "--config.evals.few=fewshot",
    "--config.evals.few.train_split=train[:5000]",
    f"--config.evals.few.shots={','.join(map(str, SHOTS))}",
    *study.AT_THE_END,
)
PAIRS = {
    TUNED: SCRATCH,
    **{f"{n}-shot": f"{n}-shot, untrained" for n in SHOTS},
}


def verdict(results: Results) -> Verdict:
    """Returns whether every margin of what was pre-trained counts."""
    margins = {
        ours: study.margin(results[ours], results[theirs])
        for ours, theirs in PAIRS.items()
    }
    return Verdict(
        all(margin.counts for margin in margins.values()),
        "; ".join(
            f"{ours} over {PAIRS[ours]}: {margin}" for ours, margin in margins.items()
        )
        + ".",
    )


STUDY = Study(
    question="Does what a small ViT learns of five classes of CIFAR-10 help on the "
    "other five, in fine-tuning on 500 images and as frozen features?",
    rule="Pre-training helps if each margin over its twin without it, of fine-tuning "
    "and of 1, 5, 10 and 25 shots, in mean test accuracy over three seeds, is larger "
    "than twice the pooled deviation over seeds.",
    config="cifar10:adam",
    flags=(
        OTHERS,
        "--config.data.train_split=train[:500]",
        "--config.total=20 epochs",
        *study.AT_THE_END,
    ),
    arms={
        "pretrained": Run(
            "cifar10:adam", (SEEN, "--config.total=2 epochs", *study.AT_THE_END)
        ),
        TUNED: ("--config.init_from={pretrained}",),
        SCRATCH: (),
        FEATURES: Run("cifar10:adam", ("--config.init_from={pretrained}", *FEWSHOT)),
        UNTRAINED: Run("cifar10:adam", FEWSHOT),
    },
    figures={
        "pre-training, on its own five": Figure("pretrained", "test/top1"),
        TUNED: Figure(TUNED, "test/top1"),
        SCRATCH: Figure(SCRATCH, "test/top1"),
        **{f"{n}-shot": Figure(FEATURES, f"few/{n}shot") for n in SHOTS},
        **{f"{n}-shot, untrained": Figure(UNTRAINED, f"few/{n}shot") for n in SHOTS},
    },
    verdict=verdict,
)
