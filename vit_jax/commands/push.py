"""`vit_jax push WORKDIR hf://ORG/NAME [--dry-run]`: a model on Hugging Face's hub.

Writes `model.safetensors`, `config.json` and a card, `README.md`, in a form that
transformers and timm load as well, where they have the architecture, and uploads them.
--dry-run writes the folder and uploads nothing. The last line of output is JSON.
"""

import contextlib
import importlib
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.checkpoints import checkpoint
from vit_jax.host import files as host_files
from vit_jax.runs import card, metrics
from vit_jax.runs import workdir as workdir_lib
from vit_jax.weights import pretrained, publishing
from vit_jax.weights.remote import hub, hubcache

LICENCE = "unknown"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}", re.ASCII)
_LONGEST_NAME = 96  # of the hub


def run(
    source: str,
    target: str,
    *,
    dry_run: bool = False,
    folder: str = "",
    dialect: str = "",
    licence: str = LICENCE,
    private: bool = False,
) -> dict[str, Any]:
    """Publishes a checkpoint.

    Args:
        source: A workdir, or what else `vit_jax.load` takes.
        target: "hf://ORG/NAME".
        dry_run: Write the folder and upload nothing.
        folder: Where to write; "": SOURCE/hub for a dry run, else nowhere to stay.
        dialect: Key of `publishing.READERS`; "": the first that can hold the model.
        licence: Of the weights, as the hub spells it: "apache-2.0".
        private: Make a repository that is not public; one that is there stays as it is.

    Returns:
        The repository, the folder, the dialect, what loads it, and where it went.

    Raises:
        errors.UserError: bad input, before anything is written; or what the hub says.
    """
    name = check_name(target)
    if not _LICENCE.fullmatch(licence):
        raise errors.UserError(
            f"--license={licence[:80]!r} is no licence as the hub spells them; want "
            "apache-2.0, mit, cc-by-4.0, other, ..."
        )
    where = _folder(source, folder, dry_run)
    api = None if dry_run else _api(target)
    with pretrained.open_weights(source) as weights, _writing(where) as partial:
        dialect = publishing.write(weights, partial, dialect)
        step, figures = _measured(source)
        (partial / "README.md").write_text(
            card.text(
                *(name, weights, dialect),
                figures=figures,
                step=step,
                licence=licence,
            )
        )
        url = _uploaded(api, name, partial, private) if api is not None else ""
    return {
        "repository": name,
        "folder": str(where) if where else "",
        "dialect": dialect,
        "loads_in": ["vit_jax", *publishing.READERS[dialect]],
        "url": url,
    }


def check_name(target: str) -> str:
    """Returns "ORG/NAME" of `hf://ORG/NAME`.

    Raises:
        errors.UserError: no name that the hub has.
    """
    name = target.removeprefix("hf://")
    good = (
        target.startswith("hf://")
        and len(name) <= _LONGEST_NAME
        and re.fullmatch(hub.REPOSITORY, name, re.ASCII)
        and not re.search(r"--|\.\.|(^|/)[.-]|[.-](/|$)|\.git$", name)
    )
    if not good:
        raise errors.UserError(
            f"{target[:200]!r} is no name of a model on the hub; want hf://ORG/NAME of "
            f"letters, digits, '-', '_' and '.', {_LONGEST_NAME} at most"
        )
    return name


def _folder(source: str, folder: str, dry_run: bool) -> Path | None:
    """Where the files shall stay; None: nowhere."""
    if not folder and not dry_run:
        return None
    if not folder and not host_files.expanded(source).is_dir():
        raise errors.UserError(f"{source[:200]} is no folder; want --folder=PATH too")
    where = host_files.expanded(folder or Path(source) / "hub")
    if where.is_file() or (where.is_dir() and any(where.iterdir())):
        raise errors.UserError(
            f"{where} is there already; remove it, or want another: --folder=PATH"
        )
    return where


def _api(target: str) -> Any:
    """The hub for a user who may write there.

    Raises:
        errors.UserError: no package, no token, or no network allowed.
    """
    if variable := hubcache.offline():
        raise errors.UserError(
            f"{target}: {variable} forbids to ask the hub; unset it, or --dry-run"
        )
    try:
        package = importlib.import_module("huggingface_hub")
    except ImportError:
        raise errors.UserError(
            f"{target} needs the package huggingface_hub: pip install 'vit_jax[hub]'; "
            "--dry-run writes the folder without it"
        ) from None
    token = package.get_token()
    if not token:
        raise errors.UserError(
            f"{target}: there is no token of the hub; `hf auth login`, or set HF_TOKEN "
            "to one that may write. --dry-run writes the folder without one"
        )
    return package.HfApi(token=token)


@contextlib.contextmanager
def _writing(where: Path | None) -> Iterator[Path]:
    """A folder that is at `where` when all of it was written, or is gone."""
    if where is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    partial = where.with_name(f"partial-{where.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if where.is_dir():
            where.rmdir()
        partial.rename(where)
    except OSError as error:
        raise errors.UserError(
            f"{where} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _measured(source: str) -> tuple[int, dict[str, float | None]]:
    """The step of a run's newest checkpoint and its figures there."""
    folder = host_files.expanded(source)
    if not folder.is_dir() or (found := checkpoint.find(folder)) is None:
        return 0, {}
    step = checkpoint.describe(found).step
    homes = (folder, *found.parents[:2])  # a workdir, or a checkpoint in one
    home = next((p for p in homes if (p / metrics.FILE_NAME).is_file()), None)
    figures = workdir_lib.figures_at(home, step) if home else {}
    return step, workdir_lib.flat(figures)


def _uploaded(api: Any, name: str, folder: Path, private: bool) -> str:
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Uploaded by vit_jax"
        )
    except Exception as error:  # a dozen of the hub's own, httpx's
        raise errors.UserError(
            f"hf://{name} could not be uploaded: {errors.reason(error)}"
        ) from error
    logging.info("uploaded %s", url)
    return str(url)


def _parse(argv: list[str]) -> list[str]:
    return cli.parse_flags(
        [re.sub(r"^(--?(?:no)?)dry-run\b", r"\1dry_run", word) for word in argv]
    )


def _define_flags() -> None:
    flags.DEFINE_bool("dry_run", False, "Write the folder and upload nothing.")
    flags.DEFINE_string("folder", "", "Where to write; WORKDIR/hub for a dry run.")
    flags.DEFINE_string("dialect", "", "What to write; an unknown one lists all.")
    flags.DEFINE_string("license", LICENCE, "Of the weights, as apache-2.0 or mit.")
    flags.DEFINE_bool("private", False, "A new repository is not public.")


def _main(argv: list[str]) -> int:
    if len(argv) != 3:
        raise errors.UserError(
            "want WORKDIR and hf://ORG/NAME, as in vit_jax push runs/pets "
            "hf://me/pets --dry-run; --help lists the flags"
        )
    values = flags.FLAGS
    figures = run(
        *argv[1:],
        dry_run=values.dry_run,
        folder=values.folder,
        dialect=values.dialect,
        licence=values.license,
        private=values.private,
    )
    if figures["folder"]:
        logging.info("written: %s", figures["folder"])
    cli.print_figures(figures)
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=_parse)
