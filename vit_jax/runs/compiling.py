"""The programs of a run, compiled before anything is placed on a device."""

import dataclasses
import logging
from concurrent import futures

from vit_jax import experiment
from vit_jax.parallel import memory


def compiled(exp: experiment.Experiment, *, anew: bool) -> experiment.Experiment:
    """Returns a run with its step compiled, and refuses one that cannot fit.

    Args:
        exp: The run.
        anew: Whether its first state is drawn: that program, as long to compile as the
            step of a small model, is compiled beside it.

    Raises:
        UserError: the step needs more memory than a device has.
    """
    pool = futures.ThreadPoolExecutor(1, "compile")
    try:
        first = pool.submit(lambda: exp.init.lower().compile()) if anew else None
        step, found = memory.compile_step(
            *(exp.train_step, exp.state, exp.batch, exp.mesh),
            layout=exp.layout.name,
            remat=exp.architecture.remat,
            microbatches=exp.microbatches,
            frozen=[one.params for one in exp.frozen],
        )
        logging.info(memory.describe(found, exp.mesh.devices.flat[0]))
        init = exp.init if first is None else first.result()
    finally:
        pool.shutdown(wait=False)
    return dataclasses.replace(exp, train_step=step, init=init)
