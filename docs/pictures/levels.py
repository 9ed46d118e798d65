"""Draws levels.svg, the rooms of vit_jax by their levels.

`python docs/pictures/levels.py` writes it. The levels are those that
tests/test_structure.py checks, read from it.
"""

import ast
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent.parent / "tests" / "test_structure.py"
# What a level is for, in a few words.
WORDS = {
    12: "comparisons by a rule fixed before",
    11: "commands",
    10: "the loop, and commands that Python calls too",
    9: "folders, metrics, stops, several processes",
    8: "assemble(config, mesh): all of a run",
    7: "any checkpoint, read and written",
    6: "what is measured, what is saved",
    5: "objectives, optimizers, the step",
    4: "mesh, layouts, memory",
    3: "ViT, hybrids, BiT, Mixer, axial",
    2: "sources, decoding, batches",
    1: "recipes, durations, checks",
    0: "what all share",
}
WIDTH, ROW, LEFT, BOX = 880, 44, 76, 32


def levels() -> dict[str, int]:
    """Returns the level of each room, as the tests have it."""
    for node in ast.parse(TESTS.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LEVELS":
            return ast.literal_eval(node.value)
    raise ValueError(f"no LEVELS in {TESTS}")


def picture(rooms: dict[str, int]) -> str:
    """Returns the drawing: a row a level, the highest at the top."""
    highest = max(rooms.values())
    height = ROW * (highest + 1) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#5b6b7b"/>'
        "</marker></defs>",
        f'<path d="M20 24 V{height - 44}" stroke="#5b6b7b" stroke-width="2" '
        'marker-end="url(#tip)"/>',
        f'<text x="20" y="{height - 14}" fill="#5b6b7b">imports point down only</text>',
    ]
    for level in range(highest, -1, -1):
        y = 10 + ROW * (highest - level)
        share = level / highest
        fill = "#{:02x}{:02x}{:02x}".format(
            *(
                round(low + (high - low) * share)
                for low, high in ((232, 171), (240, 203), (247, 235))
            )
        )
        out.append(f'<text x="38" y="{y + 21}" fill="#5b6b7b">{level}</text>')
        x = LEFT
        for name in (name for name, at in rooms.items() if at == level):
            width = 22 + round(8.2 * len(name))
            out.append(
                f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="6" '
                f'fill="{fill}" stroke="#5d87b0"/>'
            )
            out.append(
                f'<text x="{x + width / 2:g}" y="{y + 21}" text-anchor="middle" '
                f'fill="#12263a">{escape(name)}</text>'
            )
            x += width + 8
        words = escape(WORDS[level]) if level in WORDS else ""
        out.append(
            f'<text x="{WIDTH - 12}" y="{y + 21}" text-anchor="end" fill="#5b6b7b" '
            f'font-size="13">{words}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    (HERE / "levels.svg").write_text(picture(levels()))
