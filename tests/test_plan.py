"""The planner: topologies, variants, estimates, advice, reports, the command."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs import quickstart
from vit_jax import errors, experiment
from vit_jax.parallel import hardware, memory, mesh
from vit_jax.plan import (
    advice,
    buffers,
    compiling,
    estimate,
    facts,
    generations,
    hlo,
    links,
    report,
    topology,
)

REPOSITORY = Path(__file__).resolve().parent.parent
GIB = 2**30
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is absent"
)


@pytest.fixture(scope="module")
def config() -> dict:
    return advice.with_values(
        quickstart.get_config().to_dict(), {"batch_size": 64, "model.depth": 1}
    )


@pytest.fixture(scope="module")
def local(config) -> compiling.Result:
    """The quickstart's step, compiled by this machine's own compiler."""
    return compiling.run(compiling.Job(config, None))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vit_jax.plan", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )


@pytest.mark.parametrize(
    ("name", "slices", "chips", "devices"),
    [
        ("v3:4x4", 1, 16, 32),
        ("v2:16x16", 1, 256, 512),
        ("v4:4x4x8", 1, 128, 128),
        ("v5p:4x4x8", 2, 256, 256),
        ("v5litepod:2x4", 1, 8, 8),
        ("v7x:2x2x1", 1, 4, 8),
        ("tpu7x:2x2x1", 1, 4, 8),
        ("v5e:1x1", 1, 1, 1),
        ("h100:1", 1, 1, 1),
        ("h200:8", 1, 8, 8),
    ],
)
def test_topologies_count_chips_and_devices(name, slices, chips, devices):
    place = topology.parse(name, slices=slices)
    assert (place.chips, place.devices) == (chips, devices)
    assert topology.parse(place.name, slices=slices) == place


@pytest.mark.parametrize("name", ["v9:4x4", "v5e", "4x4", "v5e:4x", "h101:8", "h100"])
def test_an_unknown_topology_lists_those_that_are(name):
    rows = r"(?s)v2:2x2.*v5e:.*16x16.*v7x:.*a100, h100, h200: 1 to 8"
    with pytest.raises(errors.UserError, match=rows) as e:
        topology.parse(name)
    assert len(str(e.value).splitlines()) <= 10


@pytest.mark.parametrize("name", ["v5p:4x4", "v5e:4x4x4", "v5e:0x4", "h100:2x2"])
def test_a_slice_has_the_dimensions_of_its_network(name):
    with pytest.raises(errors.UserError, match="wants"):
        topology.parse(name)


def test_without_the_compiler_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"pip install 'vit_jax\[plan\]'"):
        topology.parse("v5e:4x4").compiler.check()


def test_variants_are_the_product_and_leave_the_config_alone(config):
    layouts = ["dp", "zero1"]
    made = advice.variants(config, {"layout": layouts, "batch_size": [64, 128]})
    assert [(v["mesh"]["layout"], v["batch_size"]) for v in made] == [
        *(("dp", 64), ("dp", 128), ("zero1", 64), ("zero1", 128))
    ]
    assert advice.variants(config, {"layout": [], "remat": []}) == [config]
    assert config["batch_size"] == 64


def test_this_machines_compiler_says_what_it_knows(config, local):
    figures = estimate.estimate(compiling.Job(config, None), local)
    keys = (
        *("fits", "peak_bytes", "argument_bytes", "temporary_bytes", "flops"),
        *("analytic_flops", "cycles", "step_seconds", "mfu", "collectives"),
        *("images_per_second", "run_hours", "core_days", "price"),
    )
    assert set(keys) <= set(figures)
    assert figures["donated_bytes"] == figures["state_bytes"]
    batch = 64 // 8 * (16 * 16 * 3 + 4)  # of a device: pixels and labels
    assert figures["argument_bytes"] == figures["state_bytes"] + batch
    tokens = 64 // 8 * 17 * quickstart.get_config().model.width * 4
    assert figures["peak_bytes"] > figures["argument_bytes"] + 5 * tokens
    assert figures["temporary_bytes"] > figures["state_bytes"] / 3  # the gradients
    assert figures["flops"] == pytest.approx(figures["analytic_flops"], rel=0.02)
    assert figures["fits"] is None and figures["cycles"] is None
    assert "not known" in report.plan(figures)
    json.dumps(figures)


def test_an_impossible_configuration_is_the_users_error(config):
    wrong = advice.with_values(config, {"batch_size": 63, "microbatches": 2})
    with pytest.raises(errors.UserError, match="63"):
        compiling.run(compiling.Job(wrong, None))


# Of a v3 slice of 32 devices: a step of 100 Mcycles, 10 GiB at its peak.
FACTS = {
    **{"model": "L/16", "remat": "dots_nb", "unroll": 1, "layout": "zero1"},
    **{
        "mesh": {"data": 2, "fsdp": 16},
        "device_kind": "TPU v3",
        "devices": 32,
        "batch_parts": 32,
    },
    **{"hosts": 4, "batch_size": 256, "microbatches": 1, "total_steps": 1000},
    **{"tokens": 197, "lengths": [768], "forward_macs": 10**9, "parameters": 10**6},
    **{"state_bytes": 12 * 10**6, "usable_bytes": int(15.48 * GIB)},
    "expected_bytes": 11 * GIB,
}
PROGRAM = """HloModule jit_train_step, input_output_alias={ {0}: (0, {}, may-alias) }

ENTRY %main (p: f32[3,1000000]) -> f32[3,1000000] {
  %p = f32[3,1000000]{1,0} parameter(0)
  ROOT %f = f32[3,1000000]{1,0} sort(%p), backend_config={"estimated_cycles":"94000000"}
}
"""


def result(peak: float = 10, out_of_memory: str = "", **changed) -> compiling.Result:
    return compiling.Result(
        facts=FACTS | changed,
        memory=memory.Memory(int(peak * GIB), GIB),
        module=hlo.Module(PROGRAM),
        flops=1.0,
        complete=True,
        out_of_memory=out_of_memory,
        seconds=1.0,
    )


def v3(peak: float = 10, out_of_memory: str = "") -> dict:
    job = compiling.Job({}, topology.parse("v3:4x4"))
    return estimate.estimate(job, result(peak, out_of_memory), price_per_chip_hour=2.0)


def test_flags_of_other_back_ends_do_not_reach_the_tpus_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_a=1 --xla_dump_b --xla_gpu_c=2")
    job = compiling.Job({}, topology.parse("v3:4x4"))
    flags = compiling._environment(job, tmp_path)["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_dump_b", f"--xla_dump_to={tmp_path}"]
    here = compiling._environment(compiling.Job({}, None), tmp_path)
    assert here["XLA_FLAGS"] == "--xla_cpu_a=1 --xla_dump_b --xla_gpu_c=2"


SENDING = PROGRAM.replace(
    "  ROOT",
    "  %all-reduce.1 = f32[3,1000000]{1,0} all-reduce(%p), replica_groups={}\n  ROOT",
)


def test_collectives_take_what_the_links_take():
    """12 MB summed over 32 cores, of which two share what their chip can send."""
    sending = dataclasses.replace(result(), module=hlo.Module(SENDING))
    job = compiling.Job({}, topology.parse("v3:4x4"))
    figures = estimate.estimate(job, sending)
    assert figures["sent_bytes"] == 2 * 31 / 32 * 12e6
    assert figures["sent_bytes_per_weight_byte"] == round(2 * 31 / 32 * 6, 3)
    seconds = 0.1 + figures["sent_bytes"] / (340e12 / 1024 / 2)
    assert figures["step_seconds_with_links"] == pytest.approx(seconds)
    assert figures["core_days_with_links"] == pytest.approx(
        figures["core_days"] * seconds / 0.1
    )
    assert f"{seconds * 1e3:.1f} ms a step" in report.plan(figures)
    assert v3()["step_seconds_with_links"] == v3()["step_seconds"]


def test_a_table_has_a_row_of_what_did_not_compile():
    nothing = dataclasses.replace(
        result(out_of_memory="20 GiB of 15"), module=None, memory=None, flops=None
    )
    figures = estimate.estimate(compiling.Job({}, topology.parse("v3:4x4")), nothing)
    assert "collectives  not known" in report.plan(figures)
    heads, _, row = report.lines([v3(), figures])
    told = dict(zip(heads, row, strict=True))
    assert [told[name] for name in ("fits", "sent", "collectives")] == ["NO", "-", "-"]


@pytest.mark.parametrize("name", hardware.CHIPS)
def test_the_rate_of_links_is_that_of_a_device(name):
    rate = links.rate(hardware.CHIPS[name])
    shared = {"v3": 2, "7x": 2}.get(name, 1)
    wanted = links.PUBLISHED.get(name)
    assert rate == (wanted and wanted / shared)


def test_estimates_follow_from_cycles_and_steps():
    figures = v3()
    assert figures["step_seconds"] == pytest.approx(0.1)
    assert figures["images_per_second"] == pytest.approx(2560)
    assert figures["run_hours"] == pytest.approx(1000 * 0.1 / 3600)
    assert figures["core_days"] == pytest.approx(32 * 1000 * 0.1 / 86400)
    assert figures["price"] == pytest.approx(16 * 2.0 * 1000 * 0.1 / 3600)
    assert figures["analytic_flops"] == 6 * 10**9 * 8
    peak = hardware.CHIPS["v3"].peak_flops
    assert figures["mfu"] == pytest.approx(6 * 10**9 * 8 / 0.1 / peak)
    assert figures["donated_bytes"] == figures["state_bytes"]
    assert figures["fits"] and figures["free_bytes"] == int(15.48 * GIB) - 10 * GIB
    text = report.plan(figures)
    assert "left out" in text and "DOES NOT FIT" not in text


def test_what_does_not_fit_is_a_result_with_advice():
    for figures in (v3(20.3, "Ran out of memory"), v3(20.3)):
        assert figures["fits"] is False
        text = report.plan(figures)
        assert "DOES NOT FIT, 4.82 too many" in text
        assert "--config.mesh.layout=fsdp" in text


def test_one_of_a_thing_is_not_several():
    one = report.plan(v3() | {"chips": 1, "devices": 1, "hosts": 1, "batch_size": 1})
    assert "on v3:4x4: 1 chip, 1 device (" in one and "), 1 host\n" in one
    assert "1 microbatch" in one and "1 microbatches" not in one
    fast = v3() | dict.fromkeys(("cycles", "step_seconds", "mfu", "price"))
    assert "only the compiler of a TPU says it" in report.plan(fast)


def test_a_table_leaves_out_what_no_plan_has():
    lines = report.table([v3(), v3(20)]).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert "yes" in lines[1] and "NO" in lines[2]
    fast = v3() | dict.fromkeys(("cycles", "step_seconds", "mfu", "price"))
    assert "Mcycles" in lines[0] and "Mcycles" not in report.table([fast])


def linear(job: compiling.Job) -> compiling.Result:
    """A compiler for which state is 40 GiB over the devices, an image 0.12 GiB."""
    rows, rest = divmod(
        job.config["batch_size"], job.topology.devices * job.config["microbatches"]
    )
    if rest or not rows:
        raise errors.UserError("the devices do not divide the batch")
    remat = {"none": 1.0, "dots_nb": 0.5, "full": 0.1}[job.config["model"]["remat"]]
    peak = 40 / job.topology.devices + rows * 0.12 * remat
    usable = job.topology.chip.usable
    full = "" if peak * GIB <= usable else "Ran out of memory"
    return result(peak, full, usable_bytes=int(usable))


def test_advice_finds_the_fastest_the_largest_and_the_smallest(config):
    big = config | {"batch_size": 4096, "microbatches": 1}
    place = topology.parse("v5e:4x4")  # 16 devices: 256 images each, 2.5 GiB of state
    found = list(advice.advise(big, place, run=linear))
    fastest, largest, alone, accumulated = found
    assert fastest[1] == advice.STRATEGIES[3]
    assert largest[1]["rows"] == 1024
    # 8 devices: 5 GiB and 512 images, 6.1; 4 devices: 10 GiB and 1024 images, 12.3.
    assert alone[1]["topology"] == "v5e:2x4"
    assert accumulated[1]["topology"] == "v5e:2x2"
    assert accumulated[1]["microbatches"] == 4096 // 4 // advice.ACCUMULATED
    # 64 images a device fit without remat, then so do 64 and with full remat 1024.
    found = list(advice.advise(big | {"batch_size": 1024}, place, run=linear))
    fastest, largest, most, *_ = found
    assert fastest[1] == advice.STRATEGIES[0]
    assert (largest[1]["rows"], most[1]["rows"]) == (64, 1024)


@pytest.fixture(scope="module")
def exp(config) -> experiment.Experiment:
    return experiment.assemble(config, mesh.make_mesh(devices=jax.devices()[:1]))


def compile_step(exp: experiment.Experiment):
    """As the trainer does."""
    step = exp.train_step, exp.state, exp.batch
    choices = {"layout": exp.layout.name, "remat": exp.architecture.remat}
    return memory.compile_step(*step, exp.mesh, **choices, microbatches=1)


def test_the_trainer_gets_the_step_that_the_worker_compiles(exp, local):
    step, found = compile_step(exp)
    held = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves((exp.state, exp.batch))
    )
    assert found.arguments == held
    state_bytes = facts.of(exp)["state_bytes"]
    assert state_bytes == local.facts["state_bytes"]
    # One device has all rows of the batch, the worker's eight an eighth each.
    arguments = local.memory.arguments
    assert found.arguments - state_bytes == 8 * (arguments - state_bytes)
    assert 3 < found.temporaries / local.memory.temporaries < 8
    ours = hlo.Module(step.as_text())
    assert buffers.donated(ours) == buffers.donated(local.module)
    assert "GiB a device" in memory.describe(found, jax.devices()[0])
    assert "does not say" in memory.describe(None, jax.devices()[0])


def test_the_trainer_is_refused_what_cannot_fit(exp, monkeypatch):
    monkeypatch.setattr(hardware, "usable_memory", lambda device: 2**20)
    with pytest.raises(errors.UserError, match="cheapest first"):
        compile_step(exp)


def test_the_command_on_this_machine_prints_one_object():
    small = ("--config.model.depth=1", "--batch_size=32")
    done = command("--config=configs/quickstart.py", "--json", *small)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["batch_size"] == 32 and figures["topology"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/quickstart.py", "--topology=v9:2x2"], "v5e:"),
        (["--config=configs/quickstart.py", "--advise"], "--topology"),
        (["--config=configs/quickstart.py", "--config.model.dept=1"], "depth"),
        (["--config=configs/quickstart.py", "--batch_size=many"], "batch_size"),
    ],
)
def test_the_command_refuses_in_a_few_lines(arguments, message):
    done = command(*arguments)
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert message in done.stderr and "Traceback" not in done.stderr


@needs_libtpu
@pytest.mark.parametrize("name", generations.TPUS)
def test_the_compiler_knows_the_smallest_slice_of_every_generation(name):
    smallest = generations.TPUS[name].sizes[0]
    script = (
        "import os, sys; from vit_jax.plan import topology, tpus;"
        "os.environ.update(tpus.COMPILER.environment);"
        "place = topology.parse(sys.argv[1], slices=int(sys.argv[2]));"
        "found = topology.devices(place); assert len(found) == place.devices;"
        "from vit_jax.parallel import hardware;"
        "assert hardware.find_chip(found[0].device_kind) is place.chip"
    )
    arguments = [sys.executable, "-c", script, f"{name}:{smallest}", "1"]
    subprocess.run(arguments, check=True, cwd=REPOSITORY, capture_output=True)


@needs_libtpu
def test_a_step_for_a_slice_that_is_not_there(config):
    place = topology.parse("v5e:2x4", slices=2)
    small = advice.with_values(
        config, {"mesh.layout": "zero1", "mesh.fsdp": 4, "model.unroll": 1}
    )
    job = compiling.Job(small, place, fast=True)
    figures = estimate.estimate(job, compiling.run(job))
    assert figures["fits"] and figures["devices"] == 16
    assert figures["mesh"] == {"data": 4, "fsdp": 4, "tensor": 1}
    assert figures["donated_bytes"] == figures["state_bytes"]
    assert figures["activation_collectives"] == []
    assert figures["collective_bytes_per_weight_byte"] > 1
    assert figures["sent_bytes"] > 0
    assert figures["flops"] == pytest.approx(figures["analytic_flops"], rel=0.05)


@needs_libtpu
def test_out_of_memory_is_a_result(config):
    huge = advice.with_values(
        config, {"model.width": 4096, "model.heads": 16, "model.mlp_width": 65536}
    )
    huge = advice.with_values(huge, {"mesh.layout": "dp", "model.unroll": 1})
    job = compiling.Job(huge, topology.parse("v2:2x2"), fast=True)
    figures = estimate.estimate(job, compiling.run(job))
    assert figures["fits"] is False and figures["free_bytes"] < 0
    assert figures["peak_bytes"] > hardware.CHIPS["v2"].usable
