"""What is said of a dataset that is not there: where it was looked for, what to do."""

import shlex
from collections.abc import Collection, Mapping

from vit_jax import errors
from vit_jax.data import prepared
from vit_jax.host import files as host_files
from vit_jax.settings import naming

# What the name of a dataset looks like: TFDS's, one that a program handed over, else.
NAME, HANDED, PATH = "name", "handed", "path"


def error(
    dataset: str,
    data_dir: str,
    kind: str,
    notes: Mapping[str, str],
    *,
    never: Collection[str],
) -> errors.UserError:
    """Returns the error of a dataset that is not prepared, or is none.

    Args:
        dataset: Its name, without columns.
        data_dir: Of TFDS.
        kind: `NAME`, `HANDED` or `PATH`.
        notes: Of the rows of the catalog, what is to be fetched by hand.
        never: The rows that nobody can prepare.
    """
    if kind != NAME:
        return _no_name(dataset, kind, notes)
    name, _, version = dataset.partition(":")
    root = prepared.root(data_dir)
    known = [*notes, "digits"]
    lines = [f"dataset {dataset!r} is not prepared: looked for {root / name}/"]
    lines[0] += f"{version or 'VERSION'}/dataset_info.json."
    versions = prepared.versions(root / name)
    if versions:
        lines[0] += f" Versions there: {', '.join(versions)}."
    elif not root.is_dir():
        lines[0] += f" The data_dir {str(root)!r} does not exist."
    if name in notes and notes[name]:
        lines.append(notes[name].format(data_dir=root, name=name.split("/")[0]))
    if name not in notes:
        hint = errors.suggest(name, known)
        lines.append(f"It is not in the catalog ({', '.join(known)}).{hint}")
    if name not in never:
        lines.append(
            "If TFDS has it, prepare it with:\n"
            f"  vit_jax prepare {shlex.quote(dataset)} --data_dir={root}"
        )
        lines.append(
            '  or: pip install "vit_jax[prepare]" && python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder('{dataset}', data_dir='{root}')"
            ".download_and_prepare(file_format='array_record')\""
        )
    return errors.UserError("\n".join(lines))


def _no_name(dataset: str, kind: str, known: Collection[str]) -> errors.UserError:
    what = "neither a dataset's name nor an existing folder"
    if host_files.expanded(dataset).is_file():
        what = "a file, not a folder"
    if kind == HANDED:
        what = "of a program, which handed it to train.run as source="
    return errors.UserError(
        f"dataset={dataset!r} is {what}; "
        f"wanted one of {', '.join([*known, 'digits'])}, a prepared TFDS dataset, "
        f"folder:PATH, {', '.join(f'{form}:' for form in naming.FORMS)}"
    )
