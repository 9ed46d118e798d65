"""A run's folder: config.json, metrics.jsonl, TensorBoard files and checkpoints."""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.runs import metrics
from vit_jax.settings import packaged, validation

CONFIG = "config.json"
ROLLBACKS = "rollbacks.json"  # of `bad_steps`
# What may change between the calls that make up one run: nothing but rounding depends
# on it.
FREE = (
    "log.",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
    "stop_after",
    "roll_back",
    "data.data_dir",
    "data.cache",
    "data.threads",
    "data.read_timeout",
    "model.remat",
    "model.unroll",
    "mesh.",
    "evals.",
)


def read_config(workdir: Path) -> dict[str, Any] | None:
    """Returns the configuration that a workdir was started with; None: it was not.

    A key that it does not have came with a later version, which leaves runs as they
    were at its default: that is filled in.

    Raises:
        UserError: it is damaged.
    """
    path = workdir / CONFIG
    try:
        if not path.exists():
            return None
        from vit_jax.settings import documents, recorded  # which no new run needs

        stored, defaults = documents.read_object(path), packaged.defaults()
        recorded.check(stored, defaults)
        # Which evaluations there are is the run's own; `changed_evals` compares them.
        known = {k: v for k, v in defaults.items() if k != "evals"}
        return {"evals": {}} | _completed(stored, known)
    except errors.UserError as error:
        raise errors.UserError(
            f"{error}\nThe workdir is damaged; remove {CONFIG} if it is this run's"
        ) from error
    except OSError as error:
        raise _unwritable(workdir, error) from error


def _completed(stored: Any, defaults: Any) -> Any:
    if not (isinstance(stored, Mapping) and isinstance(defaults, Mapping)):
        return stored
    own = {key: _completed(value, defaults.get(key)) for key, value in stored.items()}
    return {**defaults, **own}


@contextlib.contextmanager
def started(workdir: Path, config: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Writes config.json; where the body fails in a new workdir, nothing is left.

    Yields what removes it, for a process that ends in the body otherwise.

    Raises:
        UserError: not writable.
    """
    path = workdir / CONFIG
    if (folder := workdir / "checkpoints").exists() and not folder.is_dir():
        raise errors.UserError(f"{folder} is a file; want a folder, or none")
    new = not path.exists()
    made = []
    if not host_files.address(workdir):  # in a bucket there are no folders
        made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]

    def undo() -> None:
        if new and jax.process_index() == 0:
            # An error here is the first one again, or the body has put files there.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()

    try:
        _write_config(workdir, config)
        yield undo
    except BaseException:
        undo()
        raise


def _write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            host_files.write_whole(path, json.dumps(config, indent=2))
    except OSError as error:
        raise _unwritable(workdir, error) from error


def _unwritable(workdir: Path, error: OSError) -> errors.UserError:
    if workdir.is_file():
        return errors.UserError(f"--workdir={workdir} is a file; want a folder")
    return errors.UserError(
        f"workdir {workdir} cannot be written: {error.strerror or error}; "
        "want a folder you may write to, with space: --workdir=PATH"
    )


def check_same(
    workdir: Path,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    besides: Collection[str] = (),
) -> None:
    """Raises `UserError` if a workdir is another configuration's.

    Args:
        workdir: for the message.
        ours: of this call.
        theirs: that `read_config` found.
        besides: keys that may differ as well, if no other does.
    """
    differing = {
        key: pair
        for key, pair in validation.differences(ours, theirs).items()
        # 1 was the default: such a run goes on with today's recipe.
        if not (key.startswith(FREE) or (key == "microbatches" and set(pair) == {0, 1}))
    }
    if differing.keys() - set(besides):
        raise errors.UserError(
            errors.listing(
                f"workdir {workdir} belongs to another configuration:",
                [
                    f"{key}: {there!r} there, {here!r} in this call"
                    for key, (here, there) in differing.items()
                ],
                "want the same values, or another --workdir",
            )
        )


def began_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Returns whether two configurations start from one checkpoint, the same."""
    return bool(ours["init_from"]) and ours["init_from"] == theirs["init_from"]


def figures_at(workdir: Path, step: int) -> dict[str, dict[str, float | None]]:
    """Returns {evaluation: {figure: value}} written to metrics.jsonl at a step."""
    found: dict[str, dict[str, float | None]] = {}
    for values in metrics.lines(workdir):
        if values.pop("step") == step:
            for name, value in values.items():
                evaluation, _, figure = name.partition("/")
                if figure:
                    found.setdefault(evaluation, {})[figure] = value
    return found


def changed_evals(workdir: Path, config: Mapping[str, Any]) -> set[str]:
    """Returns which evaluations measure something else than the workdir's of the name.

    How often they run says nothing of what they measure.

    Args:
        workdir: its config.json may be missing.
        config: of this call.
    """
    evals: Mapping[str, Mapping[str, Any]] = config["evals"]
    stored = (read_config(workdir) or {"evals": {}})["evals"]

    def measured(options: Mapping[str, Any]) -> dict[str, Any]:
        # What a record lacks came with a later version, at its default.
        whole = packaged.evaluation(options["type"]) | dict(options)
        return {k: v for k, v in whole.items() if k not in ("every", "optional")}

    return {
        name
        for name, options in evals.items()
        if name in stored
        and validation.differences(measured(options), measured(stored[name]))
    }


def forget(workdir: Path, step: int, evals: Collection[str]) -> None:
    """Removes the figures that evaluations had at a step, for others of their name."""
    path = workdir / metrics.FILE_NAME
    if not evals or not path.exists() or jax.process_index():
        return
    starts = tuple(f"{name}/" for name in evals)
    lines = []
    for values in metrics.lines(workdir):
        if values["step"] == step:
            values = {k: v for k, v in values.items() if not k.startswith(starts)}
        if len(values.keys() - {"step", *metrics.WHEN}):
            lines.append(json.dumps(values) + "\n")
    host_files.write_whole(path, "".join(lines))


def flat(
    figures: Mapping[str, Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Joins the names of evaluations and figures: "test/top1"."""
    return {f"{name}/{k}": v for name, some in figures.items() for k, v in some.items()}
