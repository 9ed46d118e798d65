import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_data_loader import same, toys

from vit_jax import errors
from vit_jax.data import catalog, device_cache, loader, resident, sources, transforms


@pytest.fixture(scope="module")
def cifar(shared_data):
    return catalog.open_source("cifar10", "train[:600]", data_dir=str(shared_data))


@pytest.fixture(scope="module")
def sharding():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


TRANSFORMS = {
    "zeros": transforms.make("train", "random_crop_pad", image_size=32),
    "reflect": transforms.make(
        "train", "random_crop_pad", image_size=32, pad=3, mode="reflect"
    ),
    "smaller": transforms.make("train", "random_crop_pad", image_size=(28, 20), pad=0),
    "larger": transforms.make("train", "random_crop_pad", image_size=(36, 40), pad=4),
    "none": transforms.make("train", "none", image_size=32),
    "resize": transforms.make("train", "resize", image_size=32),
}
RESAMPLED = {
    "inception": transforms.make("train", "inception_crop", image_size=24),
    "resize": transforms.make("train", "resize", image_size=(40, 24)),
}


def load(source, transform, cache, **options):
    return loader.train_loader(
        source, transform, batch_size=64, seed=1, cache=cache, **options
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_cache_holds_the_same_bits(cifar, sharding, name):
    transform = TRANSFORMS[name]
    plain = load(cifar, transform, "none")
    host = load(cifar, transform, "ram")
    device = load(cifar, transform, "device", sharding=sharding)
    auto = load(cifar, transform, "auto", sharding=sharding)
    for step in (0, 9, 10**12):
        wanted = plain.batch(step)
        assert isinstance(host.batch(step)["image"], np.ndarray)
        same(host.batch(step), wanted)
        for other in (device, auto):
            batch = other.batch(step)
            assert isinstance(batch["image"], jax.Array)
            same(batch, wanted)
    for batch, wanted, _ in zip(device.iterate(3), plain.iterate(3), range(3)):
        same(batch, wanted)


@pytest.mark.parametrize("name", RESAMPLED)
def test_resampling_from_memory_equals_decoding_anew(cifar, name):
    plain, host = (load(cifar, RESAMPLED[name], cache) for cache in ("none", "ram"))
    same(host.batch(4), plain.batch(4))


def test_device_batches_are_laid_out_as_asked(cifar, sharding):
    batch = load(cifar, TRANSFORMS["zeros"], "device", sharding=sharding).batch(0)
    assert batch["image"].sharding.is_equivalent_to(sharding, 4)
    assert batch["label"].sharding.is_equivalent_to(sharding, 1)
    assert batch["image"].addressable_shards[0].data.shape == (8, 32, 32, 3)


def test_batches_make_no_implicit_transfers(cifar, sharding):
    batches = load(cifar, TRANSFORMS["zeros"], "device", sharding=sharding)
    with jax.transfer_guard("disallow"):
        batch = batches.batch(1)
    assert batch["image"].shape == (64, 32, 32, 3)


def test_processes_share_out_the_same_batch_from_memory(cifar):
    whole = load(cifar, TRANSFORMS["zeros"], "ram").batch(5)
    shares = [
        load(
            cifar, TRANSFORMS["zeros"], "auto", process_index=index, process_count=4
        ).batch(5)
        for index in range(4)
    ]
    same({key: np.concatenate([s[key] for s in shares]) for key in whole}, whole)


def test_unreadable_images_are_replaced_as_without_a_cache(sharding):
    source = toys(40, bad=(3, 4, 39))
    source.image_shape = (8, 8, 3)
    transform = transforms.make("train", "random_crop_pad", image_size=8, pad=2)
    plain = load(source, transform, "none", max_corrupt=0.1)
    for cache in ("ram", "device"):
        cached = load(source, transform, cache, max_corrupt=0.1, sharding=sharding)
        same(cached.batch(2), plain.batch(2))
        assert sorted(cached.corrupt) == ["file3.jpg", "file39.jpg", "file4.jpg"]


def test_vectors_are_gathered_too(sharding):
    hot = np.eye(70, 80, dtype=np.float32)
    source = sources.ArraySource(toys(70).images, hot)
    transform = transforms.make("train", "none", image_size=8)
    plain = load(source, transform, "none").batch(1)
    same(load(source, transform, "ram").batch(1), plain)
    same(load(source, transform, "device", sharding=sharding).batch(1), plain)


def choice(source, transform, *, sharding=None, processes=1, cache="auto"):
    return resident.choose(cache, source, transform, sharding, processes)


def test_auto_takes_what_fits(cifar, sharding, shared_data, monkeypatch):
    photographs = catalog.open_source(
        "imagenet_samples", "train", data_dir=str(shared_data)
    )
    crops, inception = TRANSFORMS["zeros"], RESAMPLED["inception"]
    assert choice(photographs, inception, sharding=sharding) == "none"
    assert choice(cifar, crops, sharding=sharding) == "device"
    assert choice(cifar, crops) == "ram"
    assert choice(cifar, crops, sharding=sharding, processes=2) == "ram"
    assert choice(cifar, inception, sharding=sharding) == "ram"
    monkeypatch.setattr(resident, "DEVICE_BYTES", 1000)
    assert choice(cifar, crops, sharding=sharding) == "ram"
    monkeypatch.setattr(resident, "_memory", lambda: 1 << 20)
    assert choice(cifar, crops, sharding=sharding) == "none"


def test_caches_that_cannot_work_are_errors(cifar, sharding, shared_data, monkeypatch):
    with pytest.raises(errors.UserError, match="needs the sharding"):
        choice(cifar, TRANSFORMS["zeros"], cache="device")
    with pytest.raises(errors.UserError, match="one process"):
        choice(
            cifar, TRANSFORMS["zeros"], cache="device", sharding=sharding, processes=2
        )
    with pytest.raises(errors.UserError, match="cannot resample"):
        load(cifar, RESAMPLED["inception"], "device", sharding=sharding)
    photographs = catalog.open_source(
        "imagenet_samples", "train[:9]", data_dir=str(shared_data)
    )
    with pytest.raises(errors.UserError, match="one size"):
        load(photographs, RESAMPLED["inception"], "ram")
    with pytest.raises(errors.UserError, match="wanted 24x24"):
        load(cifar, transforms.make("train", "none", image_size=24), "ram")
    monkeypatch.setattr(resident, "_memory", lambda: 1 << 20)
    with pytest.raises(errors.UserError, match="quarter"):
        load(cifar, TRANSFORMS["zeros"], "ram")


def test_windows_are_slices():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 12, 15, 3), np.uint8)
    examples, offsets = rng.integers(0, 7, 50), rng.integers(0, (5, 6), (50, 2))
    got = resident.cut(images, (8, 10), examples, offsets)
    for k, (y, x) in enumerate(offsets):
        wanted = images[examples[k], y : y + 8, x : x + 10]
        np.testing.assert_array_equal(got[k], wanted)
    assert got.flags.c_contiguous and got.flags.writeable


def test_one_compilation_serves_every_step(cifar, sharding):
    batches = load(cifar, TRANSFORMS["zeros"], "device", sharding=sharding)
    batches.batch(0)
    before = device_cache._gather_on_device._cache_size()
    for step in range(1, 5):
        batches.batch(step)
    assert device_cache._gather_on_device._cache_size() == before
