"""Class token or mean of the tokens, each at its own learning rate (D.3, figure 9)."""

from vit_jax.studies import study
from vit_jax.studies.study import Results, Study, Verdict

TOKEN, MEAN = "class token", "mean"
NEAR = 0.01


def verdict(results: Results) -> Verdict:
    """Returns whether both means are within a point of each other."""
    found = study.margin(results[TOKEN], results[MEAN])
    return Verdict(abs(found.mean) <= NEAR, f"{TOKEN} over {MEAN}: {found}.")


STUDY = Study(
    question="Does a class token classify as well as the mean of the tokens, once each "
    "has its own learning rate?",
    rule="With the best of three rates each, chosen on other images by the first seed, "
    "they are alike if their mean test accuracies over three seeds differ by at most "
    "one point.",
    config="cifar10:adam",
    flags=(
        *study.SMALL,
        "--config.data.train_split=train[:5000]",
        "--config.total=10 epochs",
        "--config.batch_size=64",
        *study.AT_THE_END,
    ),
    arms={TOKEN: ("--config.model.pool=token",), MEAN: ()},
    settings=study.rates("3e-4", "1e-3", "3e-3"),
    dev=study.judged_on("train[5000:10000]"),
    verdict=verdict,
)
