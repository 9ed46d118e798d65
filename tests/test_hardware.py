import types

import jax
import numpy as np
import pytest

from vit_jax.parallel import hardware
from vit_jax.plan import generations


@pytest.mark.parametrize(
    "kind, chip",
    [
        ("TPU v2", "v2"),
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "7x"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_device_kinds_are_found(kind, chip):
    assert hardware.find_chip(kind) is hardware.CHIPS[chip]


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "TPU v4 lite", "NVIDIA L40", ""])
def test_unknown_kinds_are_none(kind):
    assert hardware.find_chip(kind) is None


def test_a_cpu_has_no_published_peak():
    device = jax.local_devices()[0]
    assert hardware.peak_flops(device) is None
    assert hardware.usable_memory(device) is None


@pytest.mark.parametrize(
    ("stats", "held"),
    [
        (None, None),
        ({}, None),
        ({"bytes_in_use": 5, "peak_bytes_in_use": 9, "bytes_limit": 11}, 5),
        ({"bytes_in_use": 0}, 0),
    ],
)
def test_memory_in_use_is_what_the_device_says(stats, held):
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    assert hardware.device_memory(device) == held


def test_a_v3_pod_slice_is_counted_in_cores():
    # 2048 cores of a full v3 pod: "more than 100 petaFLOP/s".
    assert 2048 * hardware.CHIPS["v3"].peak_flops == pytest.approx(126e15, rel=0.01)


def test_host_memory_is_at_least_what_numpy_holds():
    held = np.ones(2**24)
    assert hardware.host_memory() >= held.nbytes


@pytest.mark.parametrize("name", generations.TPUS)
def test_generations_are_of_known_chips_and_their_sizes_grow(name):
    generation = generations.TPUS[name]
    chip = hardware.CHIPS[generation.chip]
    assert 0.93 * chip.memory < chip.usable < 1.01 * chip.memory
    shapes = [[int(n) for n in size.split("x")] for size in generation.sizes]
    assert {len(shape) for shape in shapes} == {generation.dimensions}
    chips = [int(np.prod(shape)) for shape in shapes]
    assert chips == sorted(set(chips))
    assert chips[-1] >= 256
