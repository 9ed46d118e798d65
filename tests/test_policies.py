import json
from pathlib import Path

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import catalog, draws, loader, training
from vit_jax.data.policies import big_vision, choosing, jitter, timm

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


HUE = {"Hue": lambda image, draw: jitter.hue(image, draw.sign * draw.share / 2)}


def test_every_operation_is_timms():
    scene, cases = golden("timm")
    kept = scene.copy()
    for case, wanted in cases:
        cubic = case["filter"] == "bicubic"
        draw = timm.Draw(case["level"] / 10, case["sign"], 0.0, cubic, FILL)
        operation = (timm.OPERATIONS | HUE)[case["name"]]
        got = operation(scene, draw)
        check(got, wanted, OF_TIMM.get(case["name"], 0), case)
    np.testing.assert_array_equal(scene, kept)
    names = {case["name"] for case, _ in cases}
    assert names == {*timm.OPERATIONS, *HUE} - {"GaussianBlurRand"}


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
    **{"auto_augment": "", "color_jitter": (), "erase": 0.0, "erase_mode": "pixel"},
    **{"erase_count": 1, "std": (58.0, 57.0, 57.0)},
    **{"exif": "turn", "area": (0.05, 1.0), "aspect": (0.75, 4 / 3)},
    **{"resize": 32, "filter": "", "pad": 4, "mean": FILL},
}
STEPS = {
    key: value
    for key, value in PLAIN.items()
    if key not in ("exif", "area", "aspect", "resize", "pad")
}
POLICIES = ("randaug(2,15)", "rand-m9-mstd0.5-inc1", "rand-m7-p1-n3-tweights", "3a")


def transform(auto_augment="", name="inception_crop", **options):
    options = PLAIN | {"auto_augment": auto_augment} | options
    return training.train_transform((24, 24), transform=name, **options)


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


@pytest.mark.parametrize(
    "options",
    [
        *({"auto_augment": policy} for policy in POLICIES),
        {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
        {"erase": 0.6, "erase_count": 3},
        {"auto_augment": "3a", "color_jitter": (0.3,), "erase": 1.0},
    ],
    ids=str,
)
def test_pixels_are_a_function_of_the_seed_and_the_position(digits, options):
    crop = transform(filter="random", **options)
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


def test_colours_are_jittered_as_torchvision_does(monkeypatch):
    image = np.array([[[100, 50, 200], [30, 60, 90]]], np.uint8)
    done = []
    changes = [
        lambda image, factor, which=which: done.append((which, factor)) or image
        for which in range(3)
    ]
    monkeypatch.setattr(jitter, "_CHANGES", (*changes, jitter.hue))
    step = choosing.steps(**STEPS | {"color_jitter": (0.4, 1.5, 0.2)})[0]
    assert step.said == "color_jitter=(0.4, 1.5, 0.2)"
    for numbers in draws.uniforms(0, np.arange(3000), step.draws).tolist():
        np.testing.assert_array_equal(step(image, numbers), image)
    orders = {tuple(which for which, _ in done[k : k + 3]) for k in range(0, 9000, 3)}
    assert len(orders) == 6
    for which, low, high in ((0, 0.6, 1.4), (1, 0.0, 2.5), (2, 0.8, 1.2)):
        factors = [factor for one, factor in done if one == which]
        spread = high - low
        assert min(factors) >= low and max(factors) <= high
        assert abs(np.mean(factors) - (low + high) / 2) < 0.02 * spread
        assert abs(np.std(factors) - spread / 12**0.5) < 0.02 * spread


def test_boxes_are_erased_as_timm_does():
    """Area and aspect by its formulas; noise of the images' mean and deviation."""
    image = np.full((60, 80, 3), 7, np.uint8)
    step = choosing.steps(**STEPS | {"erase": 0.5})[0]
    made = [step(image, u) for u in draws.uniforms(0, np.arange(2000), step.draws)]
    assert (image == 7).all()
    boxes = [(m != 7).any(-1) for m in made if m is not image]
    assert abs(len(boxes) / len(made) - 0.5) < 0.04
    shares = np.array([box.mean() for box in boxes])
    assert 0.015 < shares.min() < 0.03 and 0.31 < shares.max() < 0.345
    assert abs(shares.mean() - (0.02 + 1 / 3) / 2) < 0.01
    rows, columns = (np.array([b.any(k).sum() for b in boxes]) for k in (1, 0))
    np.testing.assert_array_equal(rows * columns, [box.sum() for box in boxes])
    aspects = np.log(rows / columns)
    assert abs(aspects.mean()) < 0.1 and aspects.std() > 0.55
    noise = np.concatenate([m[(m != 7).any(-1)] for m in made if m is not image])
    assert np.abs(noise.mean(0) - FILL).max() < 1
    assert np.abs(noise.std(0) - 57).max() < 2  # a little is cut off at 0 and 255
    for mode, colours in (("const", 1), ("rand", 2)):
        step = choosing.steps(
            **STEPS | {"erase": 1.0, "erase_mode": mode, "erase_count": 2}
        )[0]
        numbers = draws.uniforms(4, np.arange(1), step.draws)[0]
        erased = step(image, [0.0, 0.99, *numbers[2:]])
        found = {tuple(pixel) for pixel in erased.reshape(-1, 3)} - {(7, 7, 7)}
        assert len(found) == colours and (mode == "rand" or found == {FILL})


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
    "options, shown",
    [
        ({"color_jitter": (0.1, 0.2)}, "one number for brightness"),
        ({"color_jitter": (0.1, 0.2, 0.3, 0.6)}, "a hue of at most 0.5"),
        ({"erase": 1.5}, "wanted a probability"),
        ({"erase": 0.5, "erase_mode": "noise"}, "known: const, pixel, rand"),
        ({"erase": 0.5, "erase_count": 0}, "1 to 64 boxes"),
    ],
)
def test_values_that_cannot_be(options, shown):
    with pytest.raises(errors.UserError) as raised:
        transform(**options)
    assert shown in str(raised.value)


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
