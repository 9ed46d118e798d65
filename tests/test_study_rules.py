"""What the rules of studies say of given figures, both ways."""

import numpy as np
import pytest

from vit_jax.studies import (
    augmentation,
    crops,
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
    ],
)
def test_each_study_has_its_own_rule(of, figures, holds):
    """Means of its rows, each with a deviation of one point over three seeds."""
    rows = zip(of.STUDY.rows, figures, strict=True)
    results = {name: [mean - 0.01, mean, mean + 0.01] for name, mean in rows}
    assert of.STUDY.verdict(results).holds == holds
