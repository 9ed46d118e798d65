"""The planner's GPUs: names, kernels of a compiled program, bounds, a real compile."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from configs import pretrain, quickstart
from vit_jax import errors
from vit_jax.parallel import hardware, memory
from vit_jax.plan import (
    advice,
    collectives,
    compiling,
    estimate,
    gpus,
    hlo,
    kernels,
    links,
    report,
    topology,
    work,
)

GIB = 2**30
EXCERPT = (Path(__file__).parent / "hlo" / "gpu.txt").read_text()
PRODUCT = 2 * 64 * 32 * 16
MATMUL = 2 * 512 * 1024 * 2048
FORWARD = 4 * 256 * 12 * 198 * 198 * 64
CONVOLUTION = 2 * 32 * 28 * 28 * 9 * 64 * 128
WHOLE = {"model.remat": "none", "mesh.layout": "dp"}


def _why_not() -> str:
    try:
        gpus.check()
    except errors.UserError as error:
        return str(error)
    return ""


needs_cuda = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@pytest.fixture(scope="module")
def module() -> hlo.Module:
    return hlo.Module(EXCERPT)


@pytest.fixture(scope="module")
def found(module) -> dict[str, kernels.Kernel]:
    return {one.name: one for one in kernels.find(module)}


def test_kernels_are_what_takes_time(found):
    turns = {name: one.count for name, one in found.items() if one.count > 1}
    in_the_loop = ("loop_slice_fusion.1", "gemm_fusion_dot.1", "fusion-start.1")
    assert turns == dict.fromkeys((*in_the_loop, "loop_add_fusion.1"), 12)
    assert set(found) - set(turns) == {
        *("cublas-lt-matmul.1", "dot_product_attention_fwd.0", "cudnn-conv.2"),
        *("dot_product_attention_bwd.0", "cudnn-conv-bw-filter.2"),
        *("cudnn-conv-bw-input.2", "copy.1"),
    }
    assert [one.name for one in found.values() if one.alongside] == ["fusion-start.1"]


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("gemm_fusion_dot.1", PRODUCT),
        ("cublas-lt-matmul.1", MATMUL),
        ("dot_product_attention_fwd.0", FORWARD),
        ("dot_product_attention_bwd.0", 5 * FORWARD // 2),
        ("cudnn-conv.2", CONVOLUTION),
        ("cudnn-conv-bw-filter.2", CONVOLUTION),
        ("cudnn-conv-bw-input.2", CONVOLUTION),
        ("copy.1", 0),
    ],
)
def test_flops_of_a_kernel(found, name, flops):
    assert found[name].flops == flops


def test_flops_of_a_step_are_those_of_its_kernels(module, found):
    total = 12 * PRODUCT + MATMUL + 7 * FORWARD // 2 + 3 * CONVOLUTION
    assert work.flops(module) == total
    assert sum(one.count * one.flops for one in found.values()) == total


HEADS = 2 * 256 * 198 * 12 * 64
STATISTICS = 4 * 256 * 12 * 198


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("copy.1", 2 * 2 * 512 * 1024),
        # The workspace is no result.
        ("cublas-lt-matmul.1", 2 * (512 * 1024 + 1024 * 2048 + 512 * 2048)),
        # The same array thrice is read once.
        ("dot_product_attention_fwd.0", 2 * HEADS + STATISTICS),
        ("dot_product_attention_bwd.0", (2 + 3) * HEADS + STATISTICS),
        # One of twelve slices is read, and of twelve one written.
        ("loop_slice_fusion.1", 2 * 2 * 32 * 16 + 4 + 2 * 2 * 32),
        ("fusion-start.1", 2 * 2 * 64 * 16 + 4),
    ],
)
def test_bytes_of_a_kernel(found, name, moved):
    assert found[name].bytes == moved


def test_a_step_is_bound_by_the_slower_of_both_in_each_kernel():
    """Compute 1 s and 3 s, memory 2 s and 1 s; what runs beside them is hidden."""
    both = [
        kernels.Kernel("a", flops=10, bytes=40, count=1, alongside=False),
        kernels.Kernel("b", flops=30, bytes=20, count=2, alongside=False),
    ]
    assert kernels.bound(both, peak=10, bandwidth=20) == 2 + 2 * 3
    beside = kernels.Kernel("c", flops=0, bytes=60, count=1, alongside=True)
    assert kernels.bound([*both, beside], peak=10, bandwidth=20) == 8
    beside = dataclasses.replace(beside, bytes=200)
    assert kernels.bound([*both, beside], peak=10, bandwidth=20) == (80 + 200) / 20


def test_collectives_of_a_gpu(module):
    gathered, summed = collectives.find(module, devices=8)
    assert (gathered.kind, gathered.bytes) == ("all-gather", 2 * 768 * 768)
    assert (gathered.group, gathered.overlaps) == (8, True)
    assert (summed.kind, summed.bytes) == ("all-reduce", 2 * 96 * 768)
    # Four of the eight, and nothing is computed meanwhile.
    assert (summed.group, summed.overlaps) == (4, False)


def test_elements_of_tuples_are_operands_where_they_are_printed_so(module, found):
    """Dumps of new compilers have "%x#1" for a get-tuple-element of its own."""
    taken = {f"gte.{i}": f"arg#{i}" for i in range(5)} | {"gte.5": "arg.1#0"}
    taken |= {
        "weights": "loop_slice_fusion.1#0",
        "heads": "dot_product_attention_fwd.0#0",
    }
    text = EXCERPT
    for name, element in taken.items():
        text = re.sub(rf"  %{re.escape(name)} = .*\n", "", text)
        text = re.sub(rf"%{re.escape(name)}(?=[,)])", f"%{element}", text)
    short = hlo.Module(text)
    assert "%arg#3" in text and "%gte." not in text
    assert {one.name: one for one in kernels.find(short)} == found
    assert short.times == module.times and work.flops(short) == work.flops(module)


FACTS = {
    **{"model": "B/16", "remat": "none", "unroll": 0, "layout": "zero1"},
    **{"mesh": {"data": 1, "fsdp": 8, "tensor": 1}, "device_kind": "NVIDIA H100"},
    **{"devices": 8, "batch_parts": 8, "hosts": 1, "batch_size": 64},
    **{"microbatches": 1, "total_steps": 1000, "tokens": 197, "lengths": [768]},
    **{"forward_macs": 10**9, "parameters": 10**6, "state_bytes": 12 * 10**6},
    **{"expected_bytes": 11 * GIB, "usable_bytes": 60 * GIB},
}


def test_a_plan_for_gpus_has_a_bound_and_no_estimate(module, found):
    result = compiling.Result(
        *(FACTS, memory.Memory(10 * GIB, GIB), module, None),
        **{"complete": False, "out_of_memory": "", "seconds": 1.0},
    )
    job = compiling.Job({}, topology.parse("h100:8"))
    figures = estimate.estimate(job, result, price_per_chip_hour=2.0)
    bound = kernels.bound([*found.values()], peak=989e12, bandwidth=3.35e12)
    assert figures["bound_seconds"] == bound
    assert figures["kernels"] == 4 * 12 + 7
    assert figures["kernel_bytes"] == sum(k.count * k.bytes for k in found.values())
    # The sum waits for NVLink, the gather does not.
    whole = bound + 2 * 3 / 4 * 2 * 96 * 768 / 450e9
    assert figures["bound_seconds_with_links"] == pytest.approx(whole)
    assert figures["bound_hours"] == pytest.approx(1000 * whole / 3600)
    assert figures["bound_price"] == pytest.approx(8 * 2.0 * figures["bound_hours"])
    most = 6 * 10**9 * 64 / 8 / whole / 989e12
    assert figures["most_mfu"] == pytest.approx(most)
    assert figures["step_seconds"] is figures["run_hours"] is figures["price"] is None
    text = report.plan(figures)
    assert "no step below" in text and "no prediction" in text and "NVLink" in text
    heads, row = report.lines([figures])
    assert "ms at least" in heads and "Mcycles" not in heads
    on_tpus = compiling.Job({}, topology.parse("v3:4x4"))
    of_tpu = dataclasses.replace(result, facts=FACTS | {"device_kind": "TPU v3"})
    assert estimate.estimate(on_tpus, of_tpu)["bound_seconds"] is None


@pytest.mark.parametrize("name", gpus.GENERATIONS)
def test_a_gpu_is_a_row_of_data(name):
    place = topology.parse(f"{name}:8")
    assert (place.chips, place.devices, place.name) == (8, 8, f"{name}:8")
    assert place.chip.granted == 3 * place.chip.memory // 4
    assert gpus.bandwidth(place.chip) and links.rate(place.chip)
    target = gpus.GENERATIONS[name].options["target_config"]
    kind = target.split('device_description_str: "')[1].split('"')[0]
    assert hardware.find_chip(kind) is place.chip
    memory_size = int(target.split("device_memory_size: ")[1].split()[0])
    assert memory_size == pytest.approx(place.chip.memory, rel=0.08)
    assert gpus.bandwidth(hardware.CHIPS["v3"]) is gpus.bandwidth(None) is None


@pytest.mark.parametrize(("name", "slices"), [("h100:9", 1), ("h200:8", 2)])
def test_several_hosts_of_gpus_are_refused(name, slices):
    with pytest.raises(errors.UserError, match="one host .* at most 8"):
        topology.parse(name, slices=slices)


def test_what_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(gpus, "_PYTHON", (3, 10))
    monkeypatch.setattr(gpus, "_JAX", (0, 10, 0))
    monkeypatch.setattr(gpus, "_PLUGIN", "jax_plugins_of_nobody.xla_cuda13")
    for version in ((0, 10, 0), (99, 0, 0)):
        monkeypatch.setattr(gpus, "_JAX", version)
        with pytest.raises(errors.UserError, match=r"pip install 'vit_jax\[cuda\]'"):
            gpus.check()
    monkeypatch.setattr(gpus, "_PYTHON", (99, 0))
    here = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(errors.UserError, match=f"wants Python .* this is {here}"):
        gpus.check()


def test_flags_of_tpus_do_not_reach_the_compiler_of_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_tpu_a=1 --xla_gpu_b=2 --xla_cpu_c=3")
    job = compiling.Job({}, topology.parse("h100:1"))
    made = compiling._environment(job, tmp_path)
    flags = made["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_gpu_b=2", "--xla_gpu_autotune_level=0"]
    assert "--xla_cpu_c=3" not in flags
    assert made["JAX_PLATFORMS"] == "cpu"


def plan(config: dict, place: str, *, fast: bool = True) -> dict:
    return estimate.plan(compiling.Job(config, topology.parse(place), fast))


@needs_cuda
@pytest.mark.parametrize(
    "place", ["h100:1", pytest.param("a100:8", marks=pytest.mark.slow)]
)
def test_a_small_step_for_gpus_that_are_not_there(place):
    changes = {"model.depth": 2, "model.unroll": 1, "mesh.layout": "zero1"}
    config = quickstart.get_config().to_dict()
    figures = plan(advice.with_values(config, changes), place)
    assert figures["fits"] and figures["donated_bytes"] == figures["state_bytes"]
    assert figures["flops"] == pytest.approx(figures["analytic_flops"], rel=0.05)
    assert figures["kernels"] > 50 and figures["bound_seconds"] > 0
    assert figures["expected_bytes"] >= figures["peak_bytes"]
    assert (figures["sent_bytes"] > 0) == (figures["devices"] > 1)
    assert figures["activation_collectives"] == []


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("attention", ["einsum", "dot_product"])
def test_the_step_of_a_base_model_for_an_h100(attention, capsys):
    """With code, as it would be trained; by the data sheet no step is faster."""
    values = WHOLE | {"model.attention": attention, "batch_size": 256}
    config = advice.with_values(pretrain.recipe("B/16", "jft").to_dict(), values)
    figures = plan(config, "h100:1", fast=False)
    with capsys.disabled():
        print(f"\n{report.plan(figures)}")
    ours = figures["flops"] / figures["analytic_flops"]
    assert 0.99 < ours < (1.01 if attention == "einsum" else 1.03)
    assert figures["peak_bytes"] <= figures["expected_bytes"]
    # What one H200 measured with cuDNN and 1,000 classes: 59.0 ms and 15.58 GiB.
    least, most = {"einsum": (0.050, 0.070), "dot_product": (0.040, 0.055)}[attention]
    assert least < figures["bound_seconds"] < most
    if attention == "dot_product":
        assert figures["peak_bytes"] == pytest.approx(15.6 * GIB, rel=0.02)
