import json
from pathlib import Path

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import catalog, draws, loader, training
from vit_jax.data.policies import big_vision, timm

GOLDEN = Path(__file__).parent / "golden" / "augment"
FILL = (124, 116, 104)


def golden(name):
    """The scene, and what each case gives."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        cases = json.loads(str(file["cases"]))
        return file["scene"], list(zip(cases, file["images"]))


# Of mixed pixels float32 decides levels that are whole numbers in exact arithmetic: one
# level, and of no more pixels than this. All else is bit for bit.
OF_TIMM = {
    **{"Rotate": 0.005, "ShearX": 0.005, "ShearY": 0.005},
    **{"TranslateXRel": 0.02, "TranslateYRel": 0.02},
}


def check(got, wanted, share, shown):
    off = np.abs(got.astype(int) - wanted)
    assert off.max() <= (share > 0), shown
    assert (off > 0).mean() <= share, shown


def test_every_operation_is_timms():
    scene, cases = golden("timm")
    kept = scene.copy()
    for case, wanted in cases:
        cubic = case["filter"] == "bicubic"
        draw = timm.Draw(case["level"] / 10, case["sign"], 0.0, cubic, FILL)
        got = timm.OPERATIONS[case["name"]](scene, draw)
        check(got, wanted, OF_TIMM.get(case["name"], 0), case)
    np.testing.assert_array_equal(scene, kept)
    assert {case["name"] for case, _ in cases} == {*timm.OPERATIONS} - {
        "GaussianBlurRand"
    }


def test_every_operation_is_big_visions():
    scene, cases = golden("tensorflow")
    kept = scene.copy()
    height, width = scene.shape[:2]
    for case, wanted in cases:
        draw = big_vision.Draw(
            case["level"] / 10, case["sign"], 9.5 / height, 25.5 / width
        )
        got = big_vision.OPERATIONS[case["name"]](scene, draw)
        np.testing.assert_array_equal(got, wanted, str(case))
    np.testing.assert_array_equal(scene, kept)
    assert {case["name"] for case, _ in cases} == {*big_vision.OPERATIONS}
    assert len(big_vision.OPERATIONS) == 16


PLAIN = {
    **{"exif": "turn", "area": (0.05, 1.0), "aspect": (0.75, 4 / 3)},
    **{"resize": 32, "filter": "", "pad": 4, "mean": FILL},
}
POLICIES = ("randaug(2,15)", "rand-m9-mstd0.5-inc1", "rand-m7-p1-n3-tweights", "3a")


def transform(auto_augment="", name="inception_crop", **options):
    return training.train_transform(
        (24, 24), transform=name, auto_augment=auto_augment, **(PLAIN | options)
    )


@pytest.fixture(scope="module")
def digits():
    return catalog.open_source("digits", "train")


def batches(source, crop, steps=range(3), **options):
    options = {"batch_size": 12, "seed": 5, "cache": "none"} | options
    made = loader.train_loader(source, crop, **options)
    try:
        return np.concatenate([made.batch(step)["image"] for step in steps])
    finally:
        made.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_pixels_are_a_function_of_the_seed_and_the_position(digits, policy):
    crop = transform(policy, filter="random")
    whole = batches(digits, crop, threads=1)
    assert (whole != batches(digits, transform(filter="random"))).any()
    for options in ({"threads": 4}, {"cache": "ram"}):
        np.testing.assert_array_equal(batches(digits, crop, **options), whole)
    np.testing.assert_array_equal(batches(digits, crop, steps=[2]), whole[24:])
    shares = [
        batches(digits, crop, process_index=k, process_count=3).reshape(3, 4, 24, 24, 3)
        for k in (2, 0, 1)
    ]
    ordered = np.stack([shares[1], shares[2], shares[0]], 1)
    np.testing.assert_array_equal(ordered.reshape(whole.shape), whole)


def test_crops_are_the_same_without_what_follows_them(digits):
    plain, augmented = transform(), transform("rand-m9-p0-n3")
    assert augmented.draws > plain.draws and "'rand-m9-p0-n3'" in augmented.augments
    np.testing.assert_array_equal(batches(digits, augmented), batches(digits, plain))


def test_every_operation_is_drawn_as_often(monkeypatch):
    counts = dict.fromkeys(big_vision.OPERATIONS, 0)
    signs = []

    def counted(name):
        def operation(image, draw):
            counts[name] += 1
            signs.append(draw.sign)
            assert draw.share == 1.5
            return image

        return operation

    for name in counts:
        monkeypatch.setitem(big_vision.OPERATIONS, name, counted(name))
    step = big_vision.randaugment("", 2, 15.0)
    for numbers in draws.uniforms(0, np.arange(8000), step.draws).tolist():
        step(np.zeros((2, 2, 3), np.uint8), numbers)
    assert min(counts.values()) > 900 and max(counts.values()) < 1100
    assert abs(np.mean(signs)) < 0.03


def test_timms_notation_means_what_it_means_there(monkeypatch):
    look = timm.Look("random", FILL)
    made = timm.parse("rand-m9-mstd0.5-inc1", look)
    assert (made.magnitude, made.deviation, made.probability) == (9, 0.5, 0.5)
    assert len(made.names) == 15 and "ColorIncreasing" in made.names
    assert made.weights == () and made.highest == 10
    assert "Color" in timm.parse("rand-m9", look).names
    assert timm.parse("rand-mstd101", look).deviation == np.inf
    drawn = [made._drawn(u) for u in draws.uniforms(0, np.arange(4000), 1)[:, 0]]
    assert abs(np.mean(drawn) - 9) < 0.03 and max(drawn) == 10
    assert abs(np.std(drawn) - 0.48) < 0.03  # 0.5, but for what is above 10
    weighted = timm.parse("rand-n15-p1-tweights", look)
    done = []
    for name in weighted.names:
        apply = lambda image, draw, name=name: done.append(name) or image  # noqa: E731
        monkeypatch.setitem(timm.OPERATIONS, name, apply)
    numbers = draws.uniforms(3, np.arange(1), weighted.draws)[0].tolist()
    weighted(np.zeros((2, 2, 3), np.uint8), numbers)
    assert sorted(done) == sorted(weighted.names)  # without replacement


@pytest.mark.parametrize("name", ["inception_crop", "resize_crop", "resize_small_crop"])
def test_crops_have_the_filter_of_the_configuration(digits, name):
    image = digits[3]["image"]
    plain, either = transform(name=name), transform(name=name, filter="random")
    assert either.draws == plain.draws + 1
    numbers = draws.uniforms(1, np.arange(1), either.draws)[0].tolist()[:-1]
    made = {
        filter: transform(name=name, filter=filter)(image, numbers)
        for filter in ("", "bilinear", "bicubic", "lanczos")
    }
    assert len({pixels.tobytes() for pixels in made.values()}) >= 3
    for last, filter in ((0.49, "bilinear"), (0.51, "bicubic")):
        np.testing.assert_array_equal(either(image, [*numbers, last]), made[filter])


@pytest.mark.parametrize(
    "policy, shown",
    [
        ("randaug", "wanted randaug"),
        ("randaug(2,31)", "level of at most 30"),
        ("randaug(0,15)", "1 to 16"),
        ("rand-m9-x1", "cannot be read at 'x1'"),
        ("rand-m9-tother", "known: 3a, 3aw, weights"),
        ("rand-n16-tweights", "n1 to n15"),
        ("augmix-m5", "wanted randaug"),
    ],
)
def test_policies_that_there_are_not(policy, shown):
    with pytest.raises(errors.UserError, match="auto_augment|operations") as raised:
        transform(policy)
    assert shown in str(raised.value)


def test_a_cache_of_windows_says_that_it_cannot_serve_them(digits):
    crop = transform("randaug(2,15)", name="random_crop_pad", pad=8)
    with pytest.raises(errors.UserError, match=r"auto_augment='randaug\(2,15\)'.*ram"):
        batches(digits, crop, cache="device", sharding=object())
