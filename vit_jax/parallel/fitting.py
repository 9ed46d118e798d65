"""The layout of a run: as it is asked for, or chosen where it is "auto"."""

import logging
from collections.abc import Sequence

from jax.sharding import Mesh

from vit_jax import errors, models
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel.layouts import AUTO
from vit_jax.types import Params, TrainState


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
