"""`vit_jax neighbours QUERY FEATURES [--k=10]`: the images nearest to one.

QUERY is the name of a row of FEATURES, an image, or a `.npy` of vectors; FEATURES is a
file of `vit_jax features`, which says what made it. Nearest is by the cosine. Standard
output is a JSON object a neighbour, {"query", "rank", "image", "score"}, or a table.
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.host import files as host_files
from vit_jax.runs.bulk import journal, neighbours


def _define_flags() -> None:
    flags.DEFINE_integer("k", 10, "How many.")
    flags.DEFINE_bool("table", False, "A table in the place of JSON lines.")
    flags.DEFINE_string("out", "", "A file for the JSON lines, not standard output.")
    flags.DEFINE_string("checkpoint", "", "Of an image; '': what made FEATURES.")


def _lines(found: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in found)


def _table(found: Sequence[dict[str, Any]]) -> str:
    return "".join(
        f"{row['query']}  {row['rank']:>3}  {row['score']:.4f}  {row['image']}\n"
        for row in found
    )


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    if len(argv) != 3:
        raise errors.UserError("want vit_jax neighbours QUERY FEATURES; see --help")
    found = neighbours.run(argv[1], argv[2], k=given.k, checkpoint=given.checkpoint)
    if given.out:
        place = host_files.expanded(given.out)
        with journal.explained(place):
            host_files.write_whole(place, _lines(found))
    else:
        print(_table(found) if given.table else _lines(found), end="", flush=True)
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
