"""`python -m vit_jax.evaluate --checkpoint=PATH --dataset=NAME [--fewshot]`.

Measures a checkpoint, of this package or any that can be read, on a split of a dataset
with the checkpoint's own preprocessing. The last line of standard output is JSON. On a
pod all hosts run the same command, as with `vit_jax.main`; process 0 prints.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from vit_jax import (
    cli,
    distributed,
    errors,
    evaluators,
    experiment,
    metrics,
    models,
    pretrained,
)
from vit_jax import mesh as mesh_lib
from vit_jax.data import catalog
from vit_jax.evaluators import fewshot as fewshot_lib

SHOTS = (1, 5, 10, 25)


def run(
    checkpoint: str,
    dataset: str,
    *,
    split: str = "",
    data_dir: str = "",
    batch_size: int = 256,
    fewshot: bool = False,
    train_split: str = "train",
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    l2: float = fewshot_lib.L2,
) -> dict[str, Any]:
    """Evaluates a checkpoint on all devices.

    Args:
        checkpoint: a workdir, one checkpoint in it, or a file in a known dialect.
        dataset: as `data.catalog` takes it.
        split: "" for the usual test split.
        data_dir: of TFDS; "" for $TFDS_DATA_DIR or its default.
        batch_size: over all devices; rounded up to a multiple of them.
        fewshot: least squares on frozen features, instead of the checkpoint's head.
        train_split: where the few-shot evaluation takes its examples from.
        shots: examples a class.
        seeds: random choices of the examples.
        l2: penalty.

    Returns:
        The checkpoint, dataset and split, and the figures.

    Raises:
        UserError: bad input; a head for another number of classes.
    """
    if batch_size < 1:
        raise errors.UserError(f"--batch_size={batch_size}; want at least 1")
    info = catalog.describe(dataset, data_dir=data_dir)
    split = split or catalog.usual_split(info)
    loaded = pretrained.load(checkpoint)
    mesh = mesh_lib.make_mesh()
    graphdef, params = models.split(loaded.model)
    forward = experiment.make_forward(
        graphdef,
        mean=loaded.preprocessing.mean,
        std=loaded.preprocessing.std,
        dtype=loaded.architecture.compute_dtype,
    )
    classify_options = {"type": "classify", "split": split}
    fewshot_options = {
        "type": "fewshot",
        "split": split,
        "train_split": train_split,
        "shots": shots,
        "seeds": seeds,
        "l2": l2,
    }
    evaluate = evaluators.make(
        fewshot_options if fewshot else classify_options,
        dataset=dataset,
        data_dir=data_dir,
        forward=forward,
        preprocessing=loaded.preprocessing,
        num_classes=loaded.architecture.num_classes,
        batch_size=batch_size + -batch_size % jax.device_count(),
        mesh=mesh,
        loss=evaluators.trained_loss(checkpoint),
        prefix="fewshot_" if fewshot else "",
    )
    logging.info(
        "%s from %s on %s %s", loaded.architecture.name, loaded.source, dataset, split
    )
    figures = evaluate(jax.device_put(params, mesh_lib.replicated(mesh)))
    named = {name: metrics.json_number(value) for name, value in figures.items()}
    data = {"dataset": dataset, "split": split}
    if fewshot:
        data["train_split"] = train_split
    return {"checkpoint": checkpoint} | data | named


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Workdir, checkpoint in it, or .npz file.")
    flags.DEFINE_string("dataset", None, "TFDS name, digits, or folder:PATH.")
    flags.DEFINE_string("split", "", "As in test or validation[:1000]; '': test.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_integer("batch_size", 256, "Images at a time, over all devices.")
    flags.DEFINE_bool("fewshot", False, "Few-shot accuracy of the features instead.")
    flags.DEFINE_string("train_split", "train", "Few-shot: where the shots are from.")
    flags.DEFINE_list("shots", [str(k) for k in SHOTS], "Few-shot: images a class.")
    flags.DEFINE_integer("seeds", 3, "Few-shot: random choices of the images.")
    flags.DEFINE_float("l2", fewshot_lib.L2, "Few-shot: penalty.")
    distributed.define_flags()


def _parse_shots(values: list[str]) -> list[int]:
    if not values or not all(value.strip().isdigit() for value in values):
        raise errors.UserError(
            f"--shots={','.join(values)}; want numbers of images, as in --shots=1,5,10"
        )
    return [int(value) for value in values]


def _main(argv: list[str]) -> int:
    if argv[1:]:
        raise errors.UserError(f"what is {argv[1]!r}? Want flags only; see --help")
    given = flags.FLAGS
    for name in ("checkpoint", "dataset"):
        if not given[name].value:
            raise errors.UserError(f"want --{name}=...; --help lists the flags")
    evaluate = functools.partial(
        run,
        given.checkpoint,
        given.dataset,
        split=given.split,
        data_dir=given.data_dir,
        batch_size=given.batch_size,
        fewshot=given.fewshot,
        train_split=given.train_split,
        shots=_parse_shots(given.shots),
        seeds=given.seeds,
        l2=given.l2,
    )

    def body() -> None:
        figures = evaluate()
        if jax.process_index() == 0:
            cli.print_figures(figures)

    return distributed.start(body)


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
