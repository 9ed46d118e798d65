"""Words of a command line that absl must not be given as they are."""

import itertools
import re
from collections.abc import Sequence

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import packaged

_FLAG_FILE = re.compile(r"--?flagfile(?:=(.*))?", re.S)
_MOST_BYTES, _MOST_FILES = 1 << 20, 20  # of a flag file, and of those it names
_LONGEST_FLAG = 200  # absl compares an unknown one with all, letter by letter


def checked(argv: Sequence[str]) -> list[str]:
    """Returns words that absl may parse, --config_json as a kind of --config.

    Raises:
        UserError: others, and flag files that cannot be read.
    """
    _check(argv)
    return as_config(argv)


def _check(argv: Sequence[str], files: int = 0) -> None:
    """Raises `UserError` for words, and flag files, that absl must not be given."""
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name = word.partition("=")[0]
        if "\0" in word or (word.startswith("-") and len(name) > _LONGEST_FLAG):
            raise errors.UserError(f"{name[:100]} is no flag; --help lists the flags")
        if match := _FLAG_FILE.fullmatch(word):
            path = following if match[1] is None else match[1]
            if files == _MOST_FILES:
                raise errors.UserError(f"--flagfile={path}: too many in each other")
            try:
                place = host_files.expanded(path)
                text = host_files.read_whole(place, _MOST_BYTES).decode()
            except (OSError, ValueError) as error:
                raise errors.UserError(f"--flagfile={path}: {error}") from error
            _check(text.splitlines(), files + 1)


def as_config(argv: Sequence[str]) -> list[str]:
    """Returns the words of a command with --config_json=FILE as a kind of --config."""
    result = list(argv)
    for i, word in enumerate(result):
        if match := re.fullmatch(r"--?config_json(?:=(.*))?", word, re.S):
            path = match[1]
            if path is None:
                path = "".join(result[i + 1 : i + 2])
                result[i + 1 : i + 2] = []
            result[i] = f"--config={packaged.JSON}{path}"
    return result
