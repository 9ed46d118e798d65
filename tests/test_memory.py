"""What a step needs of memory, and what is said where there is less."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vit_jax import errors, host
from vit_jax.parallel import memory

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "gibibytes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
            "the total memory required for HLO temporaries (16.16G) exceeds available "
            "HBM (15.48G). HLO module: jit_train_step.",
            16.16,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 20.33G of 15.48G hbm. Exceeded hbm by 4.85G.",
            20.33,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2.50GiB.", 2.5),
    ],
)
def test_out_of_memory_says_how_much(message, gibibytes):
    assert memory.wanted(message) == int(gibibytes * 2**30)


def test_other_errors_are_not_about_memory():
    assert memory.wanted("INVALID_ARGUMENT: Used 1G of something") is None
    assert memory.wanted("INTERNAL: Mosaic failed") is None


def test_analyzed_memory_is_arguments_and_what_is_made():
    shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    program = jax.jit(lambda x: x + 1.0).lower(shape).compile()
    found = memory.of_compiled(program)
    assert found.arguments == 4 * 2**20
    assert found.temporaries == 4 * 2**20


def test_advice_only_names_what_is_still_to_be_had():
    start = memory.Demand(
        layout="dp",
        remat="none",
        batch_size=256,
        microbatches=1,
        batch_parts=32,
        devices=32,
    )
    flags = memory.smaller(start)
    assert "--config.mesh.layout=zero1" in flags[0]
    assert "--config.microbatches=2" in flags[-1]
    last = dataclasses.replace(start, layout="fsdp", remat="full", microbatches=8)
    assert memory.smaller(last) == []
    message = memory.refuse(start, "TPU v3", GIB, 20 * GIB, 15 * GIB)
    assert "20.00 GiB of each TPU v3, which has 15.00" in message
    assert len(message.splitlines()) <= 10


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does():
    """Memory beside the state grows with the batch: 2 GiB of 10 are the state's."""
    demand = memory.Demand(
        layout="dp",
        remat="full",
        batch_size=4096,
        microbatches=1,
        batch_parts=1,
        devices=1,
    )
    message = memory.refuse(demand, "cpu", 2 * GIB, 10 * GIB, 4 * GIB)
    assert "needs 10.00 GiB of each cpu, which has 4.00" in message
    assert "--config.batch_size=512 would fit" in message  # 4096 * 0.9 * 2 / 8 = 921
    assert len(message.splitlines()) <= 10
    assert "no batch fits" in memory.refuse(demand, "cpu", 2 * GIB, 10 * GIB, 2 * GIB)


def test_a_cpu_has_what_the_machine_has_left(monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 8 * 2**20)
    assert memory.usable() == 8 * 2**20 // jax.local_device_count()
    found = memory.out_of_memory(MemoryError(), batch_size=7, microbatches=1)
    assert isinstance(found, errors.UserError) and "batch_size than 7" in str(found)
    bare = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory on device")
    with pytest.raises(errors.UserError, match="more memory was wanted") as caught:
        with memory.explained(7):
            raise bare
    assert str(caught.value).endswith("Want a smaller batch_size than 7")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        with memory.explained(7):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
    other = RuntimeError("something else")
    assert memory.out_of_memory(other, batch_size=7, microbatches=1) is other
