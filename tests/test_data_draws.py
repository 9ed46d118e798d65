import numpy as np
import pytest

from vit_jax.data import draws


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 12, 100, 1437, 50000])
def test_each_epoch_is_a_permutation_of_its_own(size):
    order = draws.shuffled(3, np.arange(3 * size), size).reshape(3, size)
    for epoch in order:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    if size >= 100:
        assert (order[0] != order[1]).mean() > 0.9
        assert abs(np.corrcoef(order[0], order[1])[0, 1]) < 4 / size**0.5
        assert abs(np.corrcoef(order[0], np.arange(size))[0, 1]) < 4 / size**0.5
        assert abs(np.corrcoef(order[0][1:], order[0][:-1])[0, 1]) < 4 / size**0.5


def test_order_does_not_depend_on_how_positions_are_grouped():
    positions = np.arange(5000)
    whole = draws.shuffled(1, positions, 77)
    parts = [draws.shuffled(1, part, 77) for part in np.split(positions, 250)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    uniforms = draws.uniforms(1, positions, 4)
    parts = [draws.uniforms(1, part, 4) for part in np.split(positions, 250)]
    np.testing.assert_array_equal(uniforms, np.concatenate(parts))


def test_far_positions_neither_overflow_nor_warn():
    positions = 4096 * 10**12 + np.arange(64)
    with np.errstate(all="raise"):
        for size in (1, 3, 1281167, 10**12):
            order = draws.shuffled(-5, positions, size)
            assert order.dtype == np.int64
            assert ((order >= 0) & (order < size)).all()
        uniforms = draws.uniforms(2**70, positions, 3)
    assert len(np.unique(uniforms)) == uniforms.size


def test_uniforms_are_uniform_and_uncorrelated():
    numbers = draws.uniforms(0, np.arange(40000), 6)
    assert numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.002)
    np.testing.assert_allclose(np.corrcoef(numbers.T), np.eye(6), atol=0.025)
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 0.025


def test_seeds_differ_and_lanes_do_not_depend_on_their_number():
    positions = np.arange(100)
    two, five = (draws.uniforms(0, positions, count) for count in (2, 5))
    np.testing.assert_array_equal(two, five[:, :2])
    assert (draws.uniforms(1, positions, 2) != two).all()
    orders = [draws.shuffled(seed, positions, 100) for seed in (0, 1)]
    assert (orders[0] != orders[1]).mean() > 0.9


def test_values_are_for_ever():
    """A run resumed with a later version must go on with the same data."""
    assert draws.shuffled(0, np.arange(8), 1000).tolist() == GOLDEN_ORDER
    numbers = draws.uniforms(0, np.array([0, 10**12]), 2)
    np.testing.assert_array_equal(numbers, GOLDEN_UNIFORMS)


GOLDEN_ORDER = [40, 622, 125, 832, 513, 766, 78, 63]
GOLDEN_UNIFORMS = [
    [0.8169459947365288, 0.6873182611798647],
    [0.962686112900915, 0.2346249133723478],
]
