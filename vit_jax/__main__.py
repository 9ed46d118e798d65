"""The table of commands: `vit_jax COMMAND ...` or `python -m vit_jax COMMAND ...`.

A command is a module that defines its flags when it is run, so that its row costs
nothing: `vit_jax predict` is `python -m vit_jax.predict` and loads no other command.
"""

import difflib
import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple

EXIT_BAD_INPUT = 2  # errors.EXIT_BAD_INPUT, without loading anything


class Command(NamedTuple):
    """A row of `COMMANDS`.

    Attributes:
        module: That is run; of a package its `__main__`.
        help: What it does, in one line.
        group: The heading that it stands under.
    """

    module: str
    help: str
    group: str


TRAIN, USE, LOOK = "Train", "Use a checkpoint", "Look before you start"
COMMANDS = {
    "train": Command("vit_jax.main", "Trains what a recipe says, or resumes.", TRAIN),
    "sweep": Command(
        "vit_jax.commands.sweep", "Trains at all points of a grid, and tables.", TRAIN
    ),
    "transfer": Command(
        "vit_jax.commands.transfer",
        "Fine-tunes as the paper measures it, and tables.",
        TRAIN,
    ),
    "studies": Command(
        "vit_jax.studies", "Compares ways to train by a rule fixed before.", TRAIN
    ),
    "supervise": Command(
        "vit_jax.commands.supervise", "Runs a command again until it is done.", TRAIN
    ),
    "prepare": Command(
        "vit_jax.commands.prepare", "Downloads and prepares TFDS datasets.", TRAIN
    ),
    "evaluate": Command(
        "vit_jax.evaluate", "Measures a checkpoint on a split of a dataset.", USE
    ),
    "predict": Command(
        "vit_jax.predict", "Classifies images, a few or a folder into a table.", USE
    ),
    "features": Command(
        "vit_jax.commands.features", "Writes an embedding of each image.", USE
    ),
    "neighbours": Command(
        "vit_jax.commands.neighbours", "Finds the images nearest to one.", USE
    ),
    "knn": Command(
        "vit_jax.commands.knn", "Classifies features by their neighbours.", USE
    ),
    "probe": Command(
        "vit_jax.commands.probe", "Classifies features by logistic regression.", USE
    ),
    "convert": Command(
        "vit_jax.convert", "Writes weights for timm, transformers, ... or back.", USE
    ),
    "export": Command(
        "vit_jax.commands.export", "Writes StableHLO, SavedModel, TFLite or ONNX.", USE
    ),
    "push": Command(
        "vit_jax.commands.push", "Puts a model and its card on Hugging Face's hub.", USE
    ),
    "checkpoint": Command(
        "vit_jax.checkpoint", "Verifies, lists and prunes what a run has saved.", USE
    ),
    "inspect": Command(
        "vit_jax.inspection", "Draws what a ViT looks at, and learning curves.", USE
    ),
    "models": Command(
        "vit_jax.models", "Lists models: parameters, GMAC, tokens.", LOOK
    ),
    "doctor": Command(
        "vit_jax.commands.doctor", "Says what is here, and what would fail.", LOOK
    ),
    "plan": Command(
        "vit_jax.plan", "Says what a run takes on a TPU slice that is not there.", LOOK
    ),
}


def listing() -> str:
    """Returns the table of commands as text, under the headings of their groups."""
    groups = dict.fromkeys(command.group for command in COMMANDS.values())
    width = max(map(len, COMMANDS))
    lines = ["vit_jax COMMAND ...    (COMMAND --help: its flags)"]
    for group in groups:
        lines += ["", f"{group}:"]
        lines += [
            f"  {name.ljust(width)}  {command.help}"
            for name, command in COMMANDS.items()
            if command.group == group
        ]
    return "\n".join([*lines, "", "vit_jax --version"])


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown command {name!r}.{hint} Commands: {', '.join(COMMANDS)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; it ends the process with its own exit code.

    Args:
        argv: The name and its arguments; None: those of this process.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(listing())
    elif name == "--version":
        import vit_jax

        print(vit_jax.__version__)
    elif name not in COMMANDS:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    else:
        if name == "train":  # it answers signals from here on
            from vit_jax.runs import stopping

            stopping.stand()
        sys.argv = [name, *arguments]
        runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
