"""Draws the plots of the site from figures that are committed below benchmarks/.

`draw(folder)` is called by every build; nothing here holds a number of its own.
"""

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OURS, THEIRS, LINE = "#2f6f9f", "#b9c4ce", "#c0504d"


def table(section: str, file: str = "README.md") -> list[list[str]]:
    """Returns the rows of the first table below a heading, its head first."""
    text = (BENCHMARKS / file).read_text()
    found = re.search(rf"^#+ {re.escape(section)}.*?(^\|.*?)\n\n", text, re.S | re.M)
    if found is None:
        raise ValueError(f"benchmarks/{file} has no table below {section!r}")
    rows = [line.strip("|").split("|") for line in found[1].splitlines()]
    return [
        [cell.strip() for cell in row]
        for row in rows
        if set(row[0]) - set("- :") or any(set(cell) - set("- :") for cell in row)
    ]


def numbers(cell: str) -> list[float]:
    """Returns the numbers of a cell in their order."""
    return [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", cell)]


def _bars(axes: Axes, names: list[str], values: list[float], ours: set[int]) -> None:
    colors = [OURS if i in ours else THEIRS for i in range(len(names))]
    drawn = axes.barh(range(len(names)), values, color=colors)
    axes.bar_label(drawn, [f"{v:,g}" for v in values], padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def input_pipeline(axes: Axes) -> None:
    """Photographs decoded and cropped in a CPU-second, by four pipelines."""
    rows = {row[0]: row[1] for row in table("Input pipeline")[1:]}
    tfrecord, arrayrecord = numbers(
        rows["photographs to 224 px, ours from TFRecord / ArrayRecord"]
    )
    torch = numbers(rows["torch DataLoader with PIL, timm's way"])[0]
    tf_data = numbers(rows["tf.data (decode and crop, resize, flip)"])[0]
    names = ["vit_jax, TFRecord", "vit_jax, ArrayRecord", "tf.data", "torch with PIL"]
    _bars(axes, names, [tfrecord, arrayrecord, tf_data, torch], {0, 1})
    axes.set_xlabel("photographs to 224 px, images per CPU-second")


def forms(axes: Axes) -> None:
    """What each form of data costs beside ArrayRecord."""
    rows = [row for row in table("Forms of data")[1:] if row[4]]
    _bars(
        axes,
        [
            row[0].split(" with")[0] if "Snappy" not in row[0] else row[0]
            for row in rows
        ],
        [float(row[4]) for row in rows],
        set(range(9)),
    )
    axes.axvline(1.0, color=THEIRS)
    axes.axvline(1.2, color=LINE, linestyle="--")
    axes.set_xlabel("CPU time of a batch, of ArrayRecord's (dashed: the aim)")


def loading(axes: Axes) -> None:
    """Peak memory of loading H/14 over the size of its parameters."""
    rows = table("Loading")[1:]
    _bars(
        axes,
        [row[0].replace("`", "") for row in rows],
        [float(row[2]) for row in rows],
        set(range(9)),
    )
    axes.axvline(1.3, color=LINE, linestyle="--")
    axes.set_xlabel("peak memory / size of the parameters (dashed: the aim)")


def transfer(axes: Axes) -> None:
    """What pre-training on five classes of CIFAR-10 is worth on the other five."""
    rows = table("Study: transfer", "studies/transfer.md")[1:]
    names = [row[0].replace(" on 500 images, 20 epochs", "") for row in rows]
    for shift, column, label, color in (
        (-0.2, 1, "pre-trained", OURS),
        (0.2, 2, "from scratch", THEIRS),
    ):
        found = [numbers(row[column]) for row in rows]
        at = [i + shift for i in range(len(rows))]
        axes.bar(
            at,
            [f[0] for f in found],
            0.4,
            yerr=[f[1] for f in found],
            label=label,
            color=color,
            capsize=3,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)


def positions(axes: Axes) -> None:
    """The paper's Table 8 in miniature."""
    head, *rows = table("Study: posemb", "studies/posemb.md")
    for column, name in enumerate(head[1:], 1):
        there = [(i, numbers(row[column])) for i, row in enumerate(rows) if row[column]]
        axes.errorbar(
            [i + 0.15 * (column - 2) for i, _ in there],
            [f[0] for _, f in there],
            [f[1] for _, f in there],
            fmt="o",
            capsize=3,
            label=name,
        )
    axes.set_xticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)


def memory(axes: Axes) -> None:
    """How much of a slice's memory a step takes, by the TPU compiler."""
    text = (BENCHMARKS / "plan.md").read_text()
    found = re.findall(
        r"^\| (\S+) jft (\S+) batch 4096: layout=fsdp, remat=full, unroll=1 \| "
        r"share of the memory \| ([\d.]+)",
        text,
        re.M,
    )
    names = [f"{model} on {slice_}" for model, slice_, _ in found]
    _bars(axes, names, [100 * float(share) for *_, share in found], set(range(99)))
    axes.axvline(100, color=LINE, linestyle="--")
    axes.set_xlabel("% of the memory of a device, batch 4096, fsdp, full remat")


PLOTS: dict[str, tuple[Callable[[Axes], None], float]] = {
    "input_pipeline": (input_pipeline, 2.2),
    "forms": (forms, 2.2),
    "loading": (loading, 2.4),
    "transfer": (transfer, 3.2),
    "positions": (positions, 3.2),
    "memory": (memory, 4.0),
}


def draw(folder: Path) -> None:
    """Writes every plot as NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    style = {
        "svg.hashsalt": "vit_jax",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
    }
    with plt.rc_context(style):
        for name, (plot, height) in PLOTS.items():
            figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
            plot(axes)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
