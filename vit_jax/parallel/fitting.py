"""The layout of a run and its microbatches: as asked for, or chosen."""

import logging
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from vit_jax import errors, host, models
from vit_jax.parallel import hardware, layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel.layouts import AUTO
from vit_jax.types import Params, TrainState

# Of a ViT on two cores of a CPU: how many numbers between blocks its caches hold best,
# and how many images are taken at a time where those are fewer.
_TWO_CORES = 2**17, 4


def microbatches(architecture: models.Architecture, images: int, kind: str) -> int:
    """Returns how many parts a device's images of a step are best cut into.

    On a TPU the compiler makes images the last axis of residuals where there are 64 and
    more in one piece, and copies: half as fast at 128 (benchmarks/plan.md). On a CPU
    pages and caches are what a large piece costs (`python benchmarks/step.py`); with
    more cores than the two that this was measured on a part grows. A part's size
    divides the images, between what the chip likes and half of that. One part where
    there is none, and where nothing was measured: on GPUs, of models with convolutions
    before the blocks, or with no blocks.

    Args:
        architecture: Of the model.
        images: Of a step, on one device.
        kind: The device's `device_kind`.
    """
    if (
        not isinstance(architecture, models.VitArchitecture)
        or architecture.resnet is not None
    ):
        return 1
    if kind == "cpu":
        numbers, least = _TWO_CORES
        most = max(least, numbers // (architecture.tokens * architecture.width))
        # Processes have to come to the same answer, whatever their hosts are.
        shares = host.cores() // jax.local_device_count()
        cores = 2 if jax.process_count() > 1 else shares
        most *= max(1, cores // 2)
    elif kind.startswith("TPU"):
        most = (hardware.find_chip(kind) or hardware.Chip).images
    else:
        return 1
    parts = range(max(1, -(-images // most)), 2 * images // most + 1)
    return next((count for count in parts if images % count == 0), 1)


def lay_out(
    architecture: models.Architecture,
    state: TrainState,
    mesh: Mesh,
    *,
    layout: str,
    remat: str,
    unroll: int,
    batch_size: int,
    microbatches: int,
    frozen: Sequence[Params] = (),
) -> tuple[models.Architecture, layouts.Layout]:
    """Decides what is "auto", says so, and lays out the state.

    Args:
        architecture: of the model.
        state: shapes of the training state.
        mesh: of all devices.
        layout: a key of `layouts.LAYOUTS`, or "auto".
        remat: as `choosing.choose` takes it.
        unroll: of the model as it is asked for, 0 where nothing says it.
        batch_size: over all devices.
        microbatches: parts of a batch.
        frozen: as `choosing.choose` takes it.

    Returns:
        The architecture with its rematerialisation, and the layout.

    Raises:
        UserError: an unknown layout or rematerialisation.
    """
    errors.lookup(dict.fromkeys([AUTO, *layouts.LAYOUTS]), layout, "mesh.layout")
    if AUTO in (layout, remat):
        from vit_jax.parallel import choosing

        choice = choosing.choose(
            *(layout, remat),
            architecture=architecture,
            state=state,
            mesh=mesh,
            examples=batch_size // microbatches // mesh_lib.batch_parts(mesh),
            frozen=frozen,
        )
        if remat == AUTO and choice.remat != "none":
            # A flat program gains nothing where blocks are computed again.
            loop = {} if unroll else {"unroll": 1}
            architecture = models.with_options(
                architecture, {"remat": choice.remat, **loop}
            )
        layout = choice.layout
        logging.info(
            "mesh.layout=%s, model.remat=%s: about %.2f GiB a device",
            *(choice.layout, choice.remat, choice.peak_bytes / 2**30),
        )
    chosen = layouts.make(
        layout,
        state,
        mesh,
        dtype=architecture.compute_dtype,
        microbatches=microbatches,
    )
    return architecture, chosen
