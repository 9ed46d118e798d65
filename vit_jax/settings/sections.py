"""Parts of a configuration as typed values, for what lies below the assembly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from vit_jax.settings import durations, naming


@dataclass(frozen=True)
class Data:
    """Where training images are, and how they are read.

    Attributes:
        dataset: as `data.catalog` takes it, with the columns to read.
        data_dir: of TFDS, or "".
        train_split: what is trained on.
        repeats: see `loader.train_loader`, like all that follow.
        balance: see there.
        cache: see there.
        threads: see there.
        max_corrupt: see there.
        read_timeout: see there.
        damaged: see there.
    """

    dataset: str
    data_dir: str
    train_split: str
    repeats: int
    balance: float
    cache: str
    threads: int
    max_corrupt: float
    read_timeout: float
    damaged: str

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Self:
        """Returns those of `config.data`."""
        found: dict[str, Any] = {
            field.name: section[field.name] for field in fields(cls)
        }
        found["dataset"] = naming.of_run(section)
        return cls(**found)


@dataclass(frozen=True)
class Start:
    """Where a run has its first weights from.

    Attributes:
        path: of the checkpoint, as `vit_jax.load` takes it.
        keep_head: whether its head is kept where the number of classes is the same.
        head_order: the checkpoint's output that becomes each one of this run, where
            the head is kept and its classes come in another order, else None.
    """

    path: str
    keep_head: bool
    head_order: np.ndarray | None


@dataclass(frozen=True)
class EvalSettings:
    """One evaluation of a run.

    Attributes:
        name: of its figures.
        kind: what it is, a key of `evaluators.EVALUATORS`.
        dataset: as `data.catalog` takes it.
        split: of it; "" is the usual one.
        every: steps between two; 0 is only at the end.
        optional: left out where its data is not prepared.
        options: of its kind.
    """

    name: str
    kind: str
    dataset: str
    split: str
    every: int
    optional: bool
    options: Mapping[str, Any]


# Keys of an evaluation that say which, when and whether, and nothing of what it does.
EVAL_OF_THE_RUN = ("type", "every", "optional")
# How it prepares its images, where not as in its run: `evaluators.images.prepared`.
EVAL_IMAGES = ("image_size", "transform", "resize", "filter")
# What besides them every kind has; what else there is are the kind's own options.
_DATA = ("dataset", "split")


def evals(
    section: Mapping[str, Mapping[str, Any]],
    *,
    data: Mapping[str, Any],
    every: Callable[[str, str], int] = lambda key, text: 0,
) -> tuple[EvalSettings, ...]:
    """Returns the evaluations of a configuration.

    Args:
        section: `config.evals`.
        data: `config.data`, of the run: for evaluations that name no dataset, or its.
        every: from a key and its duration to steps.
    """
    own = {"": naming.of_run(data), data["dataset"]: naming.of_run(data)}
    return tuple(
        EvalSettings(
            name=name,
            kind=given["type"],
            dataset=" + ".join(own.get(n) or n for n in given["dataset"].split(" + ")),
            split=given["split"],
            every=every(f"evals.{name}.every", given["every"]),
            optional="optional" in given and given["optional"],
            options={
                key: value
                for key, value in given.items()
                if key not in (*EVAL_OF_THE_RUN, *_DATA)
            },
        )
        for name, given in section.items()
    )


def evals_of(
    config: Mapping[str, Any], examples: int, lengths: durations.Durations
) -> tuple[EvalSettings, ...]:
    """Returns the evaluations of a training run, each with its steps.

    Args:
        config: the whole configuration.
        examples: of the training split.
        lengths: of the run.
    """

    def every(key: str, text: str) -> int:
        steps = durations.duration(
            *(key, text),
            batch_size=config["batch_size"],
            num_examples=examples,
            total_steps=lengths.total,
        )
        return steps or lengths.eval_every

    return evals(config["evals"], data=config["data"], every=every)


def writers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names in `config.log.writers`, each once."""
    words = (word.strip() for word in config["log"]["writers"].split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def is_tuned(config: Mapping[str, Any]) -> bool:
    """Returns whether a run trains its parameters not all, or at several rates."""
    optimizer = config["optimizer"]
    by_layer = optimizer["layer_decay"] != 1.0 or optimizer["freeze"] != ""
    return by_layer or config["lora"]["rank"] > 0


def recorded(config: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with what it left to us of the images.

    What it left to the checkpoint that it starts from stays so.

    Args:
        config: the whole configuration.
        prepared: how images are prepared, the fields of a `Preprocessing`.
    """
    if config["init_from"]:
        return dict(config)
    data = {**config["data"], **{key: prepared[key] for key in ("mean", "std")}}
    evaluated = {key: prepared[key] for key in ("transform", "filter")}
    data["eval"] = {**data["eval"], **evaluated}
    return {**config, "data": data}


def roll_back(config: Mapping[str, Any]) -> int:
    """Returns how often a run may go back from bad steps."""
    return config["roll_back"]
