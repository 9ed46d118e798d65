"""Reading compiled programs: loops, collectives, FLOPs, cycles and memory."""

import dataclasses
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.parallel import mesh
from vit_jax.plan import buffers, collectives, hlo, work

SNIPPETS = Path(__file__).parent / "hlo"


def snippet(name: str) -> hlo.Module:
    return hlo.Module((SNIPPETS / f"{name}.txt").read_text())


def compiled(function, *shapes, shardings=None) -> jax.stages.Compiled:
    abstract = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    if shardings:
        abstract = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)
            for a, s in zip(abstract, shardings)
        ]
    return jax.jit(function).lower(*abstract).compile()


def module(function, *shapes, shardings=None) -> hlo.Module:
    return hlo.Module(compiled(function, *shapes, shardings=shardings).as_text())


def found(module_: hlo.Module) -> list[tuple]:
    return [
        (c.kind, c.dtype, c.bytes, c.count, c.asynchronous, c.overlaps)
        for c in collectives.find(module_, devices=8)
    ]


def test_a_loop_counts_from_its_start_by_its_step_to_its_limit():
    # u32 counter, from 0, plus 1 twice a turn, below 8.
    windowed = snippet("windowed")
    assert windowed.times["body"] == 4
    assert windowed.times["fused_product"] == 4
    assert windowed.control_times["fused_product"] == 0


@pytest.mark.parametrize("turns", [1, 5, 12])
def test_loops_of_a_real_compiler(turns):
    def run(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    looped = module(run, (4, 8), (turns, 8, 8))
    assert work.flops(looped) == turns * 2 * 4 * 8 * 8


def test_lines_of_a_kernel_do_not_end_a_computation():
    entry = snippet("windowed").computations["main"]
    assert {"kernel", "copy.1", "tuple.3"} <= set(entry.instructions)


def test_collectives_with_bytes_counts_and_overlap():
    assert found(snippet("windowed")) == [
        ("collective-permute", "bf16", 2 * 4 * 16, 4, True, True),
        ("all-reduce", "bf16+f32", 4 * 4 * 16 + 2 * 8, 1, False, False),
    ]


def test_a_gather_spread_over_fusions_is_one_gather():
    assert found(snippet("chained")) == [
        ("all-gather", "bf16", 2 * 768 * 768, 1, True, True),
        # A reduce-scatter counts what it takes; async-start runs it beside the rest.
        ("reduce-scatter", "f32", 4 * 64 * 16, 1, True, True),
        ("reduce-scatter", "f32", 4 * 64 * 16, 1, False, False),
        # Nothing between start and done; and one that only looks asynchronous.
        ("all-gather", "f32", 4 * 512 * 16, 1, True, False),
        ("all-reduce", "bf16", 2 * 4 * 197 * 8, 1, False, False),
    ]


def test_the_summary_adds_up():
    every = collectives.find(snippet("chained"), devices=16)
    rows = collectives.summary(every)
    assert sum(row["bytes"] for row in rows) == sum(c.bytes * c.count for c in every)
    assert [row["bytes"] for row in rows] == sorted(
        (row["bytes"] for row in rows), reverse=True
    )


def test_what_is_sent_depends_on_who_takes_part():
    """A sum of a value over n devices sends 2 (n - 1) / n of it, a gather half that."""
    every = collectives.find(snippet("chained"), devices=16)
    sizes = [2 * 768 * 768, 4 * 64 * 16, 4 * 64 * 16, 4 * 512 * 16]
    gathered = [15 / 16 * size for size in sizes]
    summed = 2 * 15 / 16 * 2 * 4 * 197 * 8
    assert [one.sent for one in every] == pytest.approx([*gathered, summed])
    permuted, summed = collectives.find(snippet("windowed"), devices=16)
    assert (permuted.sent, permuted.group) == (permuted.bytes, 16)
    assert (summed.sent, summed.group) == (summed.bytes, 2)  # replica_groups={{0,1}}
    assert sum(row["sent"] for row in collectives.summary(every)) == pytest.approx(
        sum(one.sent * one.count for one in every)
    )


@pytest.mark.parametrize(
    ("printed", "group"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        ("replica_groups=[2,8]<=[16], dimensions={0}", 8),
        ("replica_groups=[4,4]<=[4,4]T(1,0), use_global_device_ids=true", 4),
        ("replica_groups={}, to_apply=%sum", None),
        ("channel_id=1, to_apply=%sum", None),
    ],
)
def test_groups_as_they_are_printed(printed, group):
    assert collectives._group(printed) == group


COPIES = """HloModule jit_train_step

ENTRY %main (p: f32[64,16]) -> f32[8,16] {
  %p = f32[64,16]{1,0} parameter(0)
  %copy-start.1 = (f32[64,16]{1,0:S(1)}, f32[64,16]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %copy-done.1 = f32[64,16]{1,0:S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[64,16]{1,0}), f32[8,16]{1,0:S(1)}, s32[]) slice-start(%p)
  %slice-done.1 = f32[8,16]{1,0:S(1)} slice-done(%slice-start.1)
  %slice-start.2 = ((f32[64,16]{1,0}), f32[8,16]{1,0:S(1)}, s32[]) slice-start(%p)
  ROOT %slice-done.2 = f32[8,16]{1,0:S(1)} slice-done(%slice-start.2)
}
"""


def test_copies_between_memories_are_counted_with_their_bytes():
    assert collectives.between_memories(hlo.Module(COPIES)) == {
        "copy-start": {"count": 1, "bytes": 4 * 64 * 16},
        "slice-start": {"count": 2, "bytes": 2 * 4 * 8 * 16},
    }


def test_copies_that_turn_arrays_round_are_counted_and_no_others():
    text = """HloModule jit_train_step

ENTRY %main (p: bf16[4,2,9,9]) -> bf16[4,2,9,9] {
  %p = bf16[4,2,9,9]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %copy.1 = bf16[4,2,9,9]{0,3,2,1:T(8,128)(2,1)} copy(%p)
  %copy.2 = bf16[4,2,9,9]{0,3,2,1:T(8,128)(2,1)S(1)} copy(%copy.1)
  ROOT %copy.3 = bf16[4,2,9,9]{3,2,1,0:T(8,128)(2,1)} copy(%copy.2)
}
"""
    assert collectives.between_layouts(hlo.Module(text)) == [
        {"dtype": "bf16", "shape": (4, 2, 9, 9), "count": 2, "bytes": 2 * 2 * 648}
    ]


def test_collectives_of_activations_are_told_by_their_shape():
    every = collectives.find(snippet("chained"), devices=16)
    moved = collectives.of_activations(every, rows=4, tokens=197)
    assert [one.kind for one in moved] == ["all-reduce"]
    assert collectives.of_activations(every, rows=5, tokens=197) == []
    # A position embedding is none where there are as many images as tokens.
    posemb = dataclasses.replace(every[0], shapes=((1, 256, 32),))
    tokens = dataclasses.replace(every[0], shapes=((256, 256, 32),))
    both = [posemb, tokens]
    assert collectives.of_activations(both, rows=256, tokens=256) == [tokens]
    moment = dataclasses.replace(every[0], shapes=((1, 4, 197),))
    assert not collectives.of_activations([moment], rows=4, tokens=197)
    # 64 rows of 8 tokens, were there not weights of that length.
    flat = collectives.of_activations(every, rows=64, tokens=8)
    assert [one.bytes for one in flat] == [4 * 512 * 16]
    assert not collectives.of_activations(every, rows=64, tokens=8, lengths={512})


def test_collectives_of_a_real_compiler():
    device_mesh = mesh.make_mesh()
    rows, whole = (NamedSharding(device_mesh, P(*spec)) for spec in (["data"], []))

    def loss(x, w):
        return jnp.sum(x @ w, axis=0)

    program = module(loss, (64, 16), (16, 4), shardings=(rows, whole))
    assert [c[:4] for c in found(program)] == [("all-reduce", "f32", 4 * 4, 1)]


@pytest.mark.parametrize(
    ("equation", "left", "right", "macs"),
    [
        ("bd,dm->bm", (4, 8), (8, 16), 4 * 8 * 16),
        ("bqhe,bkhe->bhqk", (2, 5, 3, 8), (2, 7, 3, 8), 2 * 3 * 5 * 7 * 8),
        ("bhqk,bkhe->bqhe", (2, 3, 5, 7), (2, 7, 3, 8), 2 * 3 * 5 * 7 * 8),
    ],
)
def test_flops_of_products(equation, left, right, macs):
    program = module(lambda x, y: jnp.einsum(equation, x, y), left, right)
    assert work.flops(program) == 2 * macs


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_flops_of_convolutions_are_those_of_xla(padding, stride, groups):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            *(x, w, (stride, stride), padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    both = jax.grad(lambda x, w: jnp.sum(jnp.square(convolve(x, w))), argnums=(0, 1))
    for function in (convolve, both):
        program = compiled(function, (2, 9, 9, 8), (3, 3, 8 // groups, 16))
        theirs = program.cost_analysis()["flops"]
        ours = work.flops(hlo.Module(program.as_text()))
        # Theirs has the squares and sums of the loss besides.
        assert ours <= theirs <= ours + 12 * 2 * 9 * 9 * 16


def test_products_that_a_tpu_writes_as_convolutions():
    # Batched: each of the 8 x 12 windows meets one element, the rest is padding.
    assert work.flops(snippet("batched")) == 2 * 8 * 12 * 197 * 197 * 64
    # A sum over eight images: a window as long as the image axis.
    assert work.flops(snippet("windowed")) == 4 * 2 * 8 * 197 * 16 * 32


def test_cycles_follow_loops_and_name_what_has_no_estimate():
    total, missing = work.cycles(snippet("windowed"))
    assert total == 4 * 1000 + 7
    assert missing == Counter(
        {"collective-permute-start": 4, "all-reduce": 1, "custom-call": 1, "sort": 1}
    )


def test_donated_bytes_are_those_of_aliased_arguments():
    assert buffers.donated(snippet("windowed")) == 4 * 4 * 16 + 2 * 8
    assert buffers.donated(snippet("chained")) == 0


def test_memory_of_a_dump():
    report = "Memory Space: default (color=0)\nTotal bytes: 1000 (1000B)\n\nvmem: 7\n"
    assignment = (
        "allocation 0: size 2048, page 0, thread-local:\n"
        "allocation 1: size 100, page 0, parameter 81, shape |u8[3]| at {}:\n"
        "allocation 2: size 50, page 0, parameter 1, maybe-live-out:\n"
        "allocation 3: size 600, page 0, preallocated-temp:\n"
    )
    found_ = buffers.dumped(report, assignment)
    assert (found_.peak, found_.arguments, found_.temporaries) == (1000, 150, 850)
