"""What the rules of studies say of given figures, both ways."""

import numpy as np
import pytest

from vit_jax import models
from vit_jax.studies import (
    adam,
    augmentation,
    crops,
    data_size,
    frontier,
    inside,
    masked,
    pooling,
    posemb,
    resolution,
    span,
    study,
    transfer,
)

# Mean colours and 4x4 colours: right, the most frequent, two losses; pixels: losses.
MASKED = (0.4, 0.06, 1.9, 4.2, 0.3, 0.05, 2.0, 4.3, 0.1, 0.2)


def test_the_margin_of_two_samples():
    ours, theirs = [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]
    found = study.margin(ours, theirs)
    assert found == pytest.approx((0.3, np.std(ours, ddof=1)))
    assert found.counts and not found.against
    assert study.margin(theirs, ours).against
    close = study.margin([0.5, 0.6, 0.7], [0.31, 0.41, 0.51])
    assert not close.counts and not close.against  # 0.19 is less than twice 0.1


def test_verdicts_of_given_results():
    few = {augmentation.FLIP: [0.4, 0.41, 0.42], "a": [0.1, 0.11, 0.12]}
    holds, text = augmentation.verdict(few)
    assert not holds and "a harms: -30.00 points (deviation 1.00)" in text
    holds, text = augmentation.verdict(few | {"b": [0.5, 0.51, 0.52]})
    assert holds and "b helps: +10.00" in text
    assert not augmentation.verdict(few | {"b": [0.4, 0.42, 0.44]}).holds
    assert study.better("b", "a")({"a": [0.1, 0.2], "b": [0.9, 0.8]}).holds
    assert not study.better("b", "a")({"a": [0.1, 0.2], "b": [0.1, 0.3]}).holds


@pytest.mark.parametrize(
    ("of", "figures", "holds"),
    [
        (span, [0.5, 0.3, 0.4], True),
        (span, [0.4, 0.3, 0.39], False),
        (resolution, [0.5, 0.49, 0.4], True),
        (resolution, [0.5, 0.6, 0.4], False),
        (resolution, [0.5, 0.3, 0.49], False),
        (crops, [0.5, 0.1, 0.51], True),
        (crops, [0.5, 0.1, 0.6], False),
        (pooling, [0.5, 0.509], True),
        (pooling, [0.5, 0.49 - 1e-3], False),
        (posemb, [0.47, *[0.5] * 8, 0.51], True),
        (posemb, [0.48, *[0.5] * 9], False),  # 2 points worse alone
        (posemb, [0.4, *[0.5] * 8, 0.52], False),
        (transfer, [0.6, 0.5, 0.4, *[0.3] * 4, *[0.2] * 4], True),
        (transfer, [0.6, 0.5, 0.49, *[0.3] * 4, *[0.2] * 4], False),
        (transfer, [0.6, 0.5, 0.4, *[0.3] * 4, 0.2, 0.2, 0.29, 0.2], False),
        (masked, [*MASKED, 0.5, 0.4, 0.4, 0.4], True),
        (masked, [*MASKED, 0.4, 0.5, 0.5, 0.4], False),
        (masked, [0.15, *MASKED[1:], 0.5, 0.4, 0.4, 0.4], False),
        (adam, [0.6, 0.6, 0.5, 0.5, 0.9, 0.905], True),
        (adam, [0.9, 0.6, 0.5, 0.5, 0.9, 0.92], False),  # a point on average
        # Test and train of the ViT at three sizes, then of the ResNet.
        (data_size, [0.3, 0.9] * 3 + [0.5, 0.8] * 3, True),
        (data_size, [0.3, 0.9] * 3 + [0.5, 0.8] * 2 + [0.1, 0.1], True),
        (data_size, [0.3, 0.9] * 3 + [0.3, 0.6] + [0.5, 0.8] * 2, False),
        (data_size, [0.3, 0.9] * 3 + [0.35, 1.0] + [0.5, 0.8] * 2, False),
        # ViT, ResNet and hybrid, each at both budgets.
        (frontier, [0.4, 0.5, 0.4, 0.4, 0.5, 0.4], True),
        (frontier, [0.4, 0.4, 0.9, 0.9, 0.41, 0.9], False),
    ],
)
def test_each_study_has_its_own_rule(of, figures, holds):
    """Means of its rows, each with a deviation of one point over three seeds."""
    rows = zip(of.STUDY.rows, figures, strict=True)
    results = {name: [mean - 0.01, mean, mean + 0.01] for name, mean in rows}
    assert of.STUDY.verdict(results).holds == holds


# What the paper sees, and its untrained control.
INSIDE = {
    **{"positions/rank": (0.6, 0.0), "positions/line": (0.4, 0.0)},
    **{"positions/other": (0.1, 0.0), "filters/low_share": (0.6, 0.3)},
    **{"distance/first": (8, 8), "distance/last": (12, 8)},
    **{"distance/spread_first": (3, 0.1), "distance/spread_rest": (1, 0.1)},
    **{"rollout/box_share": (0.4, 0.25), "rollout/area_share": (0.25, 0.25)},
}


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({}, []),
        ({"positions/rank": (0.2, 0.0)}, ["positions"]),
        ({"positions/rank": (0.6, -0.2)}, ["positions"]),
        ({"positions/line": (0.11, 0.0)}, ["positions"]),
        ({"filters/low_share": (0.6, 0.59)}, ["filters"]),
        ({"distance/last": (8, 8)}, ["distance"]),
        ({"distance/spread_rest": (3.5, 0.1)}, ["distance"]),
        ({"rollout/box_share": (0.26, 0.2)}, ["rollout"]),
        ({"rollout/box_share": (0.4, 0.45)}, ["rollout"]),
    ],
)
def test_each_claim_about_the_inside_has_its_own_rule(changed, lost):
    results = {}
    for name, means in (INSIDE | changed).items():
        for row, mean in zip((name, inside.CONTROL.format(name)), means, strict=True):
            results[row] = [mean - 0.01, mean, mean + 0.01]
    assert results.keys() == inside.STUDY.rows.keys()
    holds, text = inside.STUDY.verdict(results)
    assert holds == (not lost)
    told = {part.split(" ")[0] for part in text.split("; ") if " not as the " in part}
    assert told == set(lost)


def test_a_study_says_in_points_what_it_found():
    means = [*MASKED, 0.5, 0.4, 0.3, 0.4]
    rows = zip(masked.STUDY.rows, means, strict=True)
    _, text = masked.STUDY.verdict({n: [m - 0.01, m, m + 0.01] for n, m in rows})
    assert text == (
        "mean colours right over the most frequent: +34.00 points; "
        "4x4 colours right over the most frequent: +25.00 points; "
        "from mean colours over from scratch: +10.00 points (deviation 1.00); "
        "from 4x4 colours over from scratch: +0.00 points (deviation 1.00); "
        "from pixels over from scratch: -10.00 points (deviation 1.00)."
    )


def macs(flags):
    """Of the model that these flags give the recipe of CIFAR-10."""
    words = dict(flag.removeprefix("--config.model.").split("=") for flag in flags)
    size = (64, 64) if "image_size" in words else (32, 32)
    words.pop("image_size", None)
    name, pool = words.pop("name"), words.pop("pool", "mean")
    small = {"width": 128, "depth": 4, "mlp_width": 256, "heads": 4}
    sizes = small | {key: int(value) for key, value in words.items()}
    arch = models.architecture(
        *(name,), num_classes=10, image_size=size, pool=pool, **sizes
    )
    return models.forward_macs(arch) / 1e6


def test_what_is_compared_at_equal_compute_has_it():
    for sizes in frontier.MODELS.values():
        found = [macs(flags) for flags in sizes]
        assert found == pytest.approx(frontier.BUDGETS, rel=0.1)
    assert [round(macs(one), 1) for one in data_size.MODELS.values()] == [13.4, 12.6]
