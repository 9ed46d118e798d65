"""What JAX's CUDA compiler says of steps for GPUs that are not there.

    pip install 'vit_jax[cuda]' 'jax>=0.11.2'  # Python 3.12 or newer
    python -m benchmarks.plan_gpus [--only=REGEX] [--results=FILE] [--write]

Pre-training on ImageNet-1k without dropout, compiled without code, ten seconds to a
minute of two cores a case. Prints a table, --write puts it into benchmarks/plan.md.
--results=FILE keeps what was compiled: a case that is in it is not compiled again. Ends
with an error where `mesh.layout=auto` expects less than the compiler says.
"""

import argparse
import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

from configs import pretrain
from vit_jax.plan import advice, compiling, estimate, topology

GIB = 2**30
TABLE = Path(__file__).with_name("plan.md")
MARKS = "<!-- GPUs -->", "<!-- end of GPUs -->"
# One H200, benchmarks/gpu.md: milliseconds of a step and GiB.
MEASURED = {
    ("B/16", "h200:1", 64): (17.3, 4.75),
    ("B/16", "h200:1", 256): (59.0, 15.58),
    ("B/16", "h200:1", 512): (117.1, 30.01),
    ("L/16", "h200:1", 128): (93.4, 22.90),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One compile.

    Attributes:
        model: Its name.
        place: Topology.
        images: Of a step on one GPU.
        attention: Its back end.
        remat: What is computed again; flat where that is nothing, else a loop.
        layout: Of the state.
        memory: Whether nothing but its memory is said.
    """

    model: str
    place: str
    images: int
    attention: str = "dot_product"
    remat: str = "none"
    layout: str = "dp"
    memory: bool = False

    @property
    def name(self) -> str:
        """What is compiled, in a line."""
        return " ".join(map(str, dataclasses.astuple(self)))

    def job(self) -> compiling.Job:
        """For the planner."""
        place = topology.parse(self.place)
        values = {
            **{"batch_size": self.images * place.devices, "model.dropout": 0.0},
            **{"model.attention": self.attention, "model.remat": self.remat},
            "model.unroll": 0 if self.remat == "none" else 1,
            "mesh.layout": self.layout,
        }
        config = pretrain.recipe(self.model, "i1k").to_dict()
        return compiling.Job(advice.with_values(config, values), place, fast=True)


LOOPS = ("dots_nb", "full")
CASES = (
    *(Case("B/16", "h100:1", images) for images in (64, 128, 256)),
    Case("B/16", "h100:1", 256, "einsum"),
    Case("B/16", "h200:1", 256),
    *(Case("L/16", place, 128) for place in ("h100:1", "h200:1")),
    Case("B/16", "h100:8", 256, layout="zero1"),
    *(Case("B/16", "h200:1", images, memory=True) for images in (64, 512)),
    Case("B/16", "h100:1", 512, memory=True),
    Case("L/16", "h100:1", 128, "einsum", memory=True),
    Case("H/14", "h100:1", 64, "einsum", memory=True),
    Case("B/16", "h100:8", 256, "einsum", layout="zero1", memory=True),
    *(
        Case("B/16", "h100:1", 256, end, remat, memory=True)
        for end, remat in itertools.product(("dot_product", "einsum"), LOOPS)
    ),
    *(Case("L/16", "h100:1", 64, remat=remat, memory=True) for remat in LOOPS),
    Case("L/16", "h100:8", 64, remat="dots_nb", layout="zero1", memory=True),
    Case("L/16", "h100:8", 64, remat="full", layout="fsdp", memory=True),
)


def row(case: Case, figures: dict[str, Any]) -> str:
    """Returns a case and its figures in Markdown."""
    time, memory = MEASURED.get((case.model, case.place, case.images), (None, None))
    bound = f"{figures['bound_seconds'] * 1e3:.1f}"
    if figures["devices"] > 1:
        bound += f" / {figures['bound_seconds_with_links'] * 1e3:.1f}"
    moved = f"{figures['kernel_bytes'] / 1e9:.0f}"
    cells = (
        *(f"{case.model}, {case.images}", case.place, case.attention, case.remat),
        *(case.layout, f"{figures['peak_bytes'] / GIB:.2f}"),
        "" if memory is None else f"{memory:.4g}",
        f"{figures['expected_bytes'] / figures['peak_bytes']:.2f}",
        *(("",) * 3 if case.memory else (f"{figures['kernels']:,}", moved, bound)),
        "" if time is None or case.memory else f"{time:.4g}",
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| model, images a GPU | | attention | remat | layout | GiB | measured "
    "| expected / GiB | kernels | GB | ms at least | measured |\n" + "|-" * 12 + "|"
)


def _load(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {row["case"]: row["figures"] for row in rows}


def main() -> None:
    """Compiles what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="regex over the cases' names")
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    known = _load(options.results)
    rows, below = [], []
    for case in CASES:
        if not re.search(options.only, case.name):
            continue
        figures = known.get(case.name) or estimate.plan(case.job())
        rows.append(row(case, figures))
        print(rows[-1], flush=True)
        if figures["expected_bytes"] < figures["peak_bytes"]:
            below.append(case.name)
        if options.results and case.name not in known:
            with open(options.results, "a") as file:
                file.write(json.dumps({"case": case.name, "figures": figures}) + "\n")
    if options.write:
        head, _, rest = TABLE.read_text().partition(MARKS[0])
        _, _, tail = rest.partition(MARKS[1])
        table = "\n".join([HEAD, *rows])
        TABLE.write_text(f"{head}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{tail}")
    if below:
        sys.exit(f"less is expected than the compiler says: {', '.join(below)}")


if __name__ == "__main__":
    main()
