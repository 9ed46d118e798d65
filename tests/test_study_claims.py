"""What studies read off the inside of a model, in closed forms, and their images."""

import numpy as np
import pytest
import test_inspection

from vit_jax import studies
from vit_jax.inspection import distance, similarity
from vit_jax.models import posemb
from vit_jax.studies import claims, clutter, looks


def test_positions_that_know_rows_and_columns_are_told_from_noise():
    grid = (8, 8)
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    known = np.concatenate([np.eye(8)[rows], np.eye(8)[columns]], axis=1)
    found = claims.nearness(similarity.cosines(known), grid)
    assert (found.line, found.other) == (0.5, 0.0)
    noise = np.random.default_rng(0).normal(size=(64, 128))
    assert abs(claims.nearness(similarity.cosines(noise), grid).rank) < 0.05
    smooth = similarity.cosines(posemb.FIXED["sincos_2d"](grid, 64))
    assert claims.nearness(smooth, grid).rank > 0.8
    near = -distance.between(grid, (4, 4))
    assert claims.nearness(near, grid).rank == pytest.approx(1)
    assert claims.nearness(-near, grid).rank == pytest.approx(-1)


def test_the_share_of_the_lowest_frequencies():
    noise = np.random.default_rng(0).normal(size=(20_000, 4, 4, 3))
    assert claims.low_share(noise) == pytest.approx(5 / 16, abs=0.005)
    y = np.arange(4)
    for wave, share in ((np.ones(4), 1), (np.cos(np.pi * y / 2), 1), ((-1) ** y, 0)):
        filters = np.broadcast_to(wave[None, :, None, None], (1, 4, 4, 3))
        assert claims.low_share(filters) == pytest.approx(share)


def test_distances_by_depth_and_their_spread_over_heads():
    of_heads = np.zeros((2, 6, 2))
    of_heads[:, 1] = [4, 8]
    of_heads[0, 5], of_heads[1, 5] = [10, 14], [20, 16]  # heads alike in the mean
    of_heads[:, 3] = [5, 7]
    assert claims.distances(of_heads) == (3.0, 7.5, 2.0, 1.0)


def test_what_is_looked_at_evenly_is_in_a_box_by_its_area():
    box = (3, 5, 19, 21)
    mass, area = claims.in_box(np.full((8, 8), 0.2), box, (4, 4))
    assert mass == pytest.approx(16 * 16 / 32**2) == area
    one = np.zeros((8, 8))
    one[0, 1] = 1  # rows 0 to 4 and columns 4 to 8, of which 1 by 3 is in the box
    assert claims.in_box(one, box, (4, 4))[0] == pytest.approx(3 / 16)


def test_digits_stand_whole_in_their_box_among_clutter():
    made = clutter.splits()["test"]
    assert [len(split) for split in clutter.splits().values()] == [20_000, 1_000]
    for index in (0, 1, 999):
        image, label = made[index]
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        row, column, below, behind = made.box(index)
        assert below - row == behind - column == clutter.DIGIT and behind <= 32
        digit = made._images[index % 359].repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(image[row:below, column:behind, 0], digit)
        assert label == made._labels[index % 359]
        again = clutter.splits()["test"][index][0]
        np.testing.assert_array_equal(image, again)
    assert len({made[i][0].tobytes() for i in (0, 359, 718)}) == 3  # of one digit
    with pytest.raises(IndexError):
        made[1000]
    assert made.num_classes == 10


def test_a_look_finds_what_the_study_compares(monkeypatch):
    monkeypatch.setattr(looks, "IMAGES", 2)
    loaded = test_inspection.filled(image_size=(32, 32), depth=3)
    found = looks.of_photographs(loaded, "digits", "") | looks.of_clutter(loaded)
    rows = studies.STUDIES["inside"].rows.values()
    assert found.keys() == {row.name for row in rows}
    assert np.isfinite(list(found.values())).all()
    assert found["rollout/area_share"] == 0.25
    assert 0 < found["rollout/box_share"] < 1
    assert 0 < found["distance/first"] < 32


def test_the_study_of_claims_has_a_control_of_each():
    rows = studies.STUDIES["inside"].rows
    of_trained = {one.name: one.arm for name, one in rows.items() if ":" not in name}
    controls = {one.name: one.arm for name, one in rows.items() if ":" in name}
    assert of_trained.keys() == controls.keys()
    assert all(controls[n] == f"{arm}, untrained" for n, arm in of_trained.items())
