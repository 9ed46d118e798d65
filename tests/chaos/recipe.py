"""A run of seconds whose phases can be held up: the recipe of all harnesses here.

A recipe is the first code of a run that is not the package's. $VIT_JAX_CHAOS, a JSON
object, says where the run is held: {"phase": of `runs.phases`, or "last write",
"process": which, "nth": how often the phase begins before, "seconds": how long,
"marker": a file that is there from then on}. What happens to it there is real.
$VIT_JAX_CHAOS_STEP is how many seconds every step takes at least, $VIT_JAX_CHAOS_WRITE
those that a checkpoint is written beside the steps.
"""

import asyncio
import json
import os
import time
from pathlib import Path

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from configs import base, quickstart
from vit_jax.runs import phases

HELD = json.loads(os.environ.get("VIT_JAX_CHAOS", "null"))
STEP = float(os.environ.get("VIT_JAX_CHAOS_STEP", "0"))
WRITE = float(os.environ.get("VIT_JAX_CHAOS_WRITE", "0"))
_seen = 0
_write = ocp.JsonCheckpointHandler._save_fn
_enter = phases.Phases.enter


def _enter_held(self: phases.Phases, phase: str, detail: str = "") -> None:
    global _seen
    _enter(self, phase, detail)
    if phase == phases.INPUT:
        time.sleep(STEP)
    if HELD is None:
        return
    here = "last write" if "not on disk" in detail else phase
    if here == HELD["phase"] and HELD["process"] == _process():
        _seen += 1
        if _seen != HELD["nth"]:
            return
        if phase in (phases.EVALUATION, phases.INPUT):
            _hold_reading()  # what reads may be cut short, not the words that say so
        else:
            _hold()


def _hold() -> None:
    Path(HELD["marker"]).touch()
    time.sleep(HELD["seconds"])


def _hold_reading() -> None:
    from vit_jax.data import loader

    wait = loader._wait

    def held(tasks):
        loader._wait = wait
        _hold()
        wait(tasks)

    loader._wait = held


def _process() -> int:
    return int(os.environ.get("VIT_JAX_PROCESS", "0"))


if HELD is not None or STEP:
    phases.Phases.enter = _enter_held


async def _write_slowly(self: ocp.JsonCheckpointHandler, *args: object) -> None:
    await asyncio.sleep(WRITE)
    await _write(self, *args)


if WRITE:
    ocp.JsonCheckpointHandler._save_fn = _write_slowly


def get_config() -> ConfigDict:
    """Returns the quickstart with one block of 16, 60 steps and a save every 20."""
    config = quickstart.get_config()
    config.batch_size = 32
    config.total = "60 steps"
    config.log_every = "3 steps"
    config.eval_every = "20 steps"
    config.save_every = "20 steps"
    config.model.depth = 1
    config.model.width = 16
    config.model.mlp_width = 16
    config.model.heads = 1
    config.data.flip = True
    base.set_evals(config, test=base.classify("test"))
    return config
