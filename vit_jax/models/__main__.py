"""`vit_jax models [PATTERN] [--json]`: the table of models.

PATTERN is a shell pattern of names, e.g. "R50*", or any name, e.g. "B/20". Parameters
are those with 1000 classes at 224 pixels; GMAC are 10^9 multiply-adds of one image's
forward pass; tokens are the encoder's. Where the patch does not divide the image its
edge is left out: 384 is 378 for patches of 14. Nothing is allocated.
"""

from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.cli import tables
from vit_jax.models import build, families
from vit_jax.models.architecture import Architecture

IMAGE_SIZES = (224, 384)
HEADINGS = (
    *("name", "parameters"),
    *(f"GMAC {size}" for size in IMAGE_SIZES),
    *(f"tokens {size}" for size in IMAGE_SIZES),
)


def _architecture(name: str, image_size: int) -> Architecture:
    return families.architecture(
        name, num_classes=1000, image_size=image_size, crop="valid"
    )


def row(name: str) -> dict[str, Any]:
    """Returns the figures of one model.

    Returns:
        "name", "parameters"; "gmac" and "tokens" by image size, tokens None for a
        model that has none.

    Raises:
        errors.UserError: not the name of a model.
    """
    archs = {size: _architecture(name, size) for size in IMAGE_SIZES}
    return {
        "name": name,
        "parameters": build.count_parameters(archs[IMAGE_SIZES[0]]),
        "gmac": {
            size: round(families.forward_macs(arch) / 1e9, 3)
            for size, arch in archs.items()
        },
        "tokens": {size: arch.tokens or None for size, arch in archs.items()},
    }


def lines(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Returns rows as texts, below the headings."""
    found = [HEADINGS]
    for figures in rows:
        gmac = (f"{value:,.2f}" for value in figures["gmac"].values())
        tokens = ("-" if n is None else str(n) for n in figures["tokens"].values())
        found.append((figures["name"], f"{figures['parameters']:,}", *gmac, *tokens))
    return found


def table(lines: list[tuple[str, ...]]) -> str:
    """Returns lines as one text: names to the left, figures to the right."""
    first, *rest = (max(map(len, column)) for column in zip(*lines))
    return "\n".join(
        "  ".join([name.ljust(first), *map(str.rjust, figures, rest)])
        for name, *figures in lines
    )


def _define_flags() -> None:
    flags.DEFINE_bool("json", False, "One line of JSON in place of the table.")


def _main(argv: list[str]) -> None:
    if len(argv) > 2:
        raise errors.UserError(f"want one PATTERN, got {argv[1:]}; quote it")
    pattern = argv[1] if argv[1:] else "*"
    names = families.list_names(pattern)
    if not names and set(pattern) & set("*?["):
        raise errors.UserError(f"no model's name matches {pattern!r}")
    rows = [row(name) for name in names or [pattern]]
    if flags.FLAGS.json:
        cli.print_figures({"models": rows})
    else:
        texts = lines(rows)
        tables.print_lines(texts, table(texts))


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
