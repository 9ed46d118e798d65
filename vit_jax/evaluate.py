"""`vit_jax evaluate --checkpoint=PATH [--dataset=NAME] [--fewshot]`.

Measures a checkpoint, of this package or any that can be read, on a split of a dataset
(a run's own without --dataset) with the checkpoint's own preprocessing. Classes are
matched by name, see `labels`. The last line of standard output is JSON. On a pod all
hosts run the same command, as with `vit_jax.main`; process 0 prints.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from vit_jax import cli, errors, evaluators, host, models
from vit_jax.data import catalog
from vit_jax.data import labels as labels_lib
from vit_jax.evaluators import fewshot as fewshot_lib
from vit_jax.host import programs
from vit_jax.learning import losses, passes
from vit_jax.parallel import memory
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import distributed, metrics
from vit_jax.settings import naming
from vit_jax.weights import files, pretrained
from vit_jax.weights import loaded as loaded_lib

SHOTS = (1, 5, 10, 25)
MOST = 10**6  # shots and seeds
USUAL = "classify"
UNNAMED = (USUAL, "regress")  # figures of other kinds are named after their kind
SPLITS = ("split", "train_split")


# Compiled once for each model, however often it is evaluated in a process.
_forward = functools.lru_cache(maxsize=4)(passes.make_forward)


def default_split(
    info: catalog.DatasetInfo, config: Mapping[str, Any] | None = None
) -> str:
    """Returns the split to report figures on.

    Args:
        info: of the dataset.
        config: of the run that was trained on it; its first evaluation's split is
            taken where the dataset has none of the usual names.

    Raises:
        UserError: neither.
    """
    if not set(info.splits) & set(catalog.TEST_SPLITS):
        evals = config["evals"] if config and "evals" in config else {}
        for evaluation in evals.values():
            if not evaluation["dataset"]:
                return evaluation["split"]
    return catalog.usual_split(info)


def _data(
    checkpoint: str, config: Mapping[str, Any], dataset: str, data_dir: str
) -> tuple[str, str, Mapping[str, Any]]:
    """What to evaluate on, where it is, and the configuration if it is the run's."""
    own = config["data"] if "data" in config else None
    if own is None and not dataset:
        raise errors.UserError(
            f"{checkpoint} does not say which dataset it was trained on; want "
            "--dataset=NAME"
        )
    if own is None or dataset not in ("", own["dataset"], naming.of_run(own)):
        return dataset, data_dir, {}
    return naming.of_run(own), data_dir or own["data_dir"], config


def run(
    checkpoint: str,
    dataset: str = "",
    *,
    split: str = "",
    data_dir: str = "",
    batch_size: int = 256,
    labels: str = "auto",
    fewshot: bool = False,
    train_split: str = "train",
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    l2: float = fewshot_lib.L2,
    f1_at: float = 0.0,
    kind: str = "",
    options_of_kind: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on all devices.

    Args:
        checkpoint: whatever `pretrained.load` takes.
        dataset: as `data.catalog` takes it; "" for that of the checkpoint's run.
        split: "" for the usual test split.
        data_dir: of TFDS; "" for that of the run where the dataset is its own, else
            $TFDS_DATA_DIR or its default.
        batch_size: over all devices; rounded up to a multiple of them.
        labels: how the dataset's classes are matched with the checkpoint's, a key of
            `labels.MODES`.
        fewshot: least squares on frozen features, instead of the checkpoint's head.
        train_split: where the few-shot evaluation takes its examples from.
        shots: examples a class.
        seeds: random choices of the examples.
        l2: penalty.
        f1_at: of several labels an image, the probability from which on a class is
            predicted, for its F1; 0: none.
        kind: of evaluation, a key of `evaluators.EVALUATORS`; "": "fewshot" where that
            is asked for, "regress" where labels are numbers, else "classify".
        options_of_kind: what else it takes.

    Returns:
        The checkpoint, dataset and split, and the figures.

    Raises:
        UserError: bad input; a head for other classes.
    """
    if batch_size < 1:
        raise errors.UserError(f"--batch_size={batch_size}; want at least 1")
    if not math.isfinite(l2) or not all(0 < k <= MOST for k in (seeds, *shots)):
        raise errors.UserError(
            f"--shots={','.join(map(str, shots))} --seeds={seeds} --l2={l2}; want "
            f"numbers from 1 to {MOST:,} and a penalty"
        )
    own: dict[str, Any] = {
        "train_split": train_split,
        "shots": shots,
        "seeds": seeds,
        "l2": l2,
    }
    own |= {"f1_at": f1_at, **(options_of_kind or {})}
    with pretrained.open_as_evaluated(pretrained.agreed(checkpoint)) as weights:
        dataset, data_dir, config = _data(checkpoint, weights.config, dataset, data_dir)
        info = catalog.describe(dataset, data_dir=data_dir)
        kind = kind or ("fewshot" if fewshot else USUAL)
        kind = "regress" if kind == USUAL and info.numeric else kind
        wanted = evaluators.options_of(kind)
        options = {name: value for name, value in own.items() if name in wanted}
        options |= {"type": kind, "split": split or default_split(info, config)}
        loaded_lib.check_color(weights.architecture)
        _check_memory(batch_size, weights.architecture.image_size)
        evaluate = _evaluator(
            weights, checkpoint, options, dataset, data_dir, batch_size, labels
        )
        loaded = pretrained.from_weights(weights, source=checkpoint)
    split = options["split"]
    logging.info(
        "%s from %s on %s %s", loaded.architecture.name, loaded.source, dataset, split
    )
    params = models.split(loaded.model)[1]
    mesh = mesh_lib.make_mesh()
    with memory.explained(batch_size):
        figures = evaluate(jax.device_put(params, mesh_lib.replicated(mesh)))
    named = {name: metrics.json_number(value) for name, value in figures.items()}
    splits = {name: options[name] for name in SPLITS if name in options}
    return {"checkpoint": checkpoint, "dataset": dataset} | splits | named


def _evaluator(
    weights: files.Weights,
    checkpoint: str,
    options: Mapping[str, Any],
    dataset: str,
    data_dir: str,
    batch_size: int,
    labels: str,
) -> evaluators.Evaluator:
    """Opens the data and checks that the classes fit, before any weight is read."""
    arch, wanted = weights.architecture, weights.preprocessing
    graphdef, _ = models.abstract(arch)
    forward = _forward(passes.Bound(graphdef, arch, wanted.mean, wanted.std))
    context = evaluators.Context(
        datasets=evaluators.Datasets(dataset, data_dir),
        forward=forward,
        preprocessing=wanted,
        outputs=labels_lib.Side(
            checkpoint, arch.num_classes, weights.label_names, weights.label_ids
        ),
        batch_size=batch_size + -batch_size % jax.device_count(),
        mesh=mesh_lib.make_mesh(),
        loss=losses.PROBLEMS[weights.problem],
        mode=labels,
        prefix="" if options["type"] in UNNAMED else f"{options['type']}_",
    )
    return evaluators.make({**options, "dataset": dataset}, context)


def _check_memory(batch_size: int, size: tuple[int, int]) -> None:
    """Raises `UserError` for a batch whose images alone the machine cannot hold."""
    # Three batches of bytes are under way on the host; a CPU has one of floats as well.
    image = size[0] * size[1] * 3 * (7 if jax.default_backend() == "cpu" else 3)
    there = host.available_memory() * jax.process_count()
    if batch_size * image > there:
        raise errors.UserError(
            f"--batch_size={batch_size} wants {batch_size * image / 2**30:.2f} GiB for "
            f"its images, {there / 2**30:.2f} are there; want at most "
            f"{there // (2 * image)}"
        )


def _define_flags() -> None:
    flags.DEFINE_string(
        "checkpoint", None, "Workdir, WORKDIR:best, file, folder or URL."
    )
    flags.DEFINE_string("dataset", "", "As --config.data.dataset; '': the run's.")
    flags.DEFINE_string("split", "", "As in test or validation[:1000]; '': test.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_integer("batch_size", 256, "Images at a time, over all devices.")
    flags.DEFINE_enum(
        "labels", "auto", list(labels_lib.MODES), "Classes by name, or by their order."
    )
    flags.DEFINE_bool("fewshot", False, "Few-shot accuracy of the features instead.")
    flags.DEFINE_string("train_split", "train", "Few-shot: where the shots are from.")
    flags.DEFINE_list("shots", [str(k) for k in SHOTS], "Few-shot: images a class.")
    flags.DEFINE_integer("seeds", 3, "Few-shot: random choices of the images.")
    flags.DEFINE_float("l2", fewshot_lib.L2, "Few-shot: penalty.")
    flags.DEFINE_float("f1_at", 0.0, "Several labels: F1 at this probability.")
    distributed.define_flags()
    flags.adopt_module_key_flags(distributed)  # so that --help lists them


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
    if not given.checkpoint:
        raise errors.UserError("want --checkpoint=...; --help lists the flags")
    shots = _parse_shots(given.shots)
    with distributed.joined():
        programs.keep()
        figures = run(
            given.checkpoint,
            given.dataset,
            split=given.split,
            data_dir=given.data_dir,
            batch_size=given.batch_size,
            labels=given.labels,
            fewshot=given.fewshot,
            train_split=given.train_split,
            shots=shots,
            seeds=given.seeds,
            l2=given.l2,
            f1_at=given.f1_at,
        )
        if jax.process_index() == 0:
            cli.print_figures(figures)
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
