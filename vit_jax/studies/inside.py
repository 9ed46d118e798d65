"""What the paper sees inside its ViTs, in a small one and in untrained ones (4.5, D.7).

With each seed a ViT learns CIFAR-10, and one of the same form does not: it has a rate
of 0. What `vit_jax inspect` finds in both is judged: positions (the paper's Figures 7
and 10), filters (7, left) and attention distances (7, right, and 11). For attention
rollout (Figures 6 and 14) another ViT learns handwritten digits among clutter, of which
it is known where they are. The models are tiny, and a patch of 4x4 pixels has 48
dimensions.

Not asked: whether a hybrid looks less nearby in its first layers. The hybrids that have
a name divide an image by 16 or more, so that none here has a grid to look over.
"""

import statistics

from vit_jax.studies import study
from vit_jax.studies.study import Figure, Flags, Results, Run, Study, Verdict

LOOKS = "vit_jax.studies.looks"
UNTRAINED: Flags = ("--config.total=1 steps", "--config.optimizer.lr=0.0")
LEARNING: Flags = ("--config.total=100_000 examples",)  # two epochs of CIFAR-10
PHOTOGRAPHS: Flags = (
    "--config.model.pool=token",
    "--config.model.width=64",
    "--config.model.depth=6",
    "--config.model.mlp_width=128",
    "--config.batch_size=64",
    *study.AT_THE_END,
)
DATA: Flags = ("--config.data.dataset=py:vit_jax.studies.clutter:splits",)
DIGITS: Flags = (
    *DATA,
    "--config.data.flip=False",
    "--config.model.pool=token",
    "--config.model.width=64",
    "--config.model.mlp_width=128",
    "--config.batch_size=64",
    *study.AT_THE_END,
)
NEAR, FAR = 0.3, 0.1  # correlations
OF_PHOTOGRAPHS = (
    *("positions/rank", "positions/line", "positions/other", "filters/low_share"),
    *("distance/first", "distance/last"),
    *("distance/spread_first", "distance/spread_rest"),
)
OF_DIGITS = ("rollout/box_share", "rollout/area_share")
CONTROL = "untrained: {}"


def _claims(results: Results) -> dict[str, tuple[bool, str]]:
    """Whether each of the claims holds, and its figures."""

    def mean(name: str) -> float:
        return statistics.fmean(results[name])

    def above(ours: str, theirs: str) -> bool:
        return study.margin(results[ours], results[theirs]).counts

    def told(*names: str) -> str:
        return " against ".join(f"{mean(name):.3f}" for name in names)

    rank, control = "positions/rank", CONTROL.format("positions/rank")
    lines = "positions/line", "positions/other"
    filters = "filters/low_share", CONTROL.format("filters/low_share")
    depth = "distance/last", "distance/first"
    spread = "distance/spread_first", "distance/spread_rest"
    box, area = OF_DIGITS
    boxes = box, area, CONTROL.format(box)
    return {
        "positions": (
            mean(rank) > NEAR and abs(mean(control)) < FAR and above(*lines),
            f"correlation with nearness {told(rank, control)} untrained, cosines in a "
            f"row or column {told(*lines)} elsewhere",
        ),
        "filters": (above(*filters), f"low frequencies {told(*filters)} untrained"),
        "distance": (
            above(*depth) and above(*spread),
            f"last third {told(*depth)} pixels of the first; spread over heads of the "
            f"first two layers {told(*spread)} of the others",
        ),
        "rollout": (
            all(above(box, other) for other in boxes[1:]),
            f"in the box {told(*boxes[:2])} of the area and {mean(boxes[2]):.3f} "
            "untrained",
        ),
    }


def verdict(results: Results) -> Verdict:
    """Returns whether all four claims hold, and which do."""
    found = _claims(results)
    return Verdict(
        all(holds for holds, _ in found.values()),
        "; ".join(
            f"{name} {'as' if holds else 'not as'} the paper: {text}"
            for name, (holds, text) in found.items()
        )
        + ".",
    )


def _look(arm: str, *flags: str) -> Run:
    return Run("cifar10:adam", (*flags, f"--config.init_from={{{arm}}}"), LOOKS)


def _figures() -> dict[str, Figure]:
    found = {}
    for arm, names in (("look", OF_PHOTOGRAPHS), ("look at digits", OF_DIGITS)):
        for name in names:
            found[name] = Figure(arm, name)
            found[CONTROL.format(name)] = Figure(f"{arm}, untrained", name)
    return found


STUDY = Study(
    question="Does a small ViT show what the paper sees in its own: positions that "
    "know rows, columns and nearness, smooth filters, attention that reaches further "
    "with depth, and rollout that points at the object?",
    rule="By means over three seeds, differences counting beyond twice the pooled "
    "deviation: the rank correlation of cosines of positions with nearness is above "
    "0.3, of untrained ones below 0.1 in size, and positions in one row or column are "
    "more alike than others; the first 28 components of the filters have more of the "
    "lowest frequencies than untrained ones; the last third of the layers looks "
    "further than the first, and heads differ most in the first two layers; rollout "
    "has more in the digit's box than the box has of the area, and than untrained. It "
    "holds if all do.",
    config="cifar10:adam",
    flags=(),
    arms={
        "ViT": Run("cifar10:adam", (*PHOTOGRAPHS, *LEARNING)),
        "ViT, untrained": Run("cifar10:adam", (*PHOTOGRAPHS, *UNTRAINED)),
        "ViT of digits": Run("cifar10:adam", (*DIGITS, *LEARNING)),
        "ViT of digits, untrained": Run("cifar10:adam", (*DIGITS, *UNTRAINED)),
        "look": _look("ViT"),
        "look, untrained": _look("ViT, untrained"),
        "look at digits": _look("ViT of digits", *DATA),
        "look at digits, untrained": _look("ViT of digits, untrained", *DATA),
    },
    figures=_figures(),
    verdict=verdict,
)
