"""A model card: what was trained, on what, how well, and how to load it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from vit_jax import models
from vit_jax.settings import validation
from vit_jax.weights import files, names, publishing

_ON_THE_HUB = re.compile(r"[\w-][\w.-]{0,95}(/[\w-][\w.-]{0,95})?", re.ASCII)
# Say where things are on the machine of the run, and nothing of the model.
_PRIVATE = ("data.data_dir", "data.cache", "data.threads")
_FORM = re.compile(r"((?:[a-z]+:(?!/{2}))?)(.*)", re.S)  # "folder:", not "gs://"
_OF_A_MACHINE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")
_LOADING = {
    "vit_jax": (
        "import vit_jax\n\n"
        'loaded = vit_jax.load("hf://{name}")\n'
        'logits = loaded.model(loaded.images(["image.jpg"]))'
    ),
    "transformers": (
        "from transformers import AutoImageProcessor, {auto}\n\n"
        'processor = AutoImageProcessor.from_pretrained("{name}")\n'
        'model = {auto}.from_pretrained("{name}")'
    ),
    "timm": (
        'import timm\n\nmodel = timm.create_model("hf-hub:{name}", pretrained=True)\n'
        "transform = timm.data.create_transform(**timm.data.resolve_data_config("
        "model=model))"
    ),
}
_MEANING = {
    "single_label": "the softmax of its outputs are probabilities",
    "multi_label": "each output is a label of its own: the sigmoid is its probability",
    "regression": "its outputs are numbers",
}


def text(
    name: str,
    weights: files.Weights,
    dialect: str,
    *,
    figures: Mapping[str, float | None],
    step: int,
    licence: str,
) -> str:
    """Returns a README.md, with the front matter that the hub reads.

    Args:
        name: "ORG/NAME".
        weights: What is published.
        dialect: What they were written in.
        figures: Of the last evaluations, "test/top1" for instance.
        step: Updates done; 0: no run of ours.
        licence: Of the weights, as the hub spells it.
    """
    parts = [
        _front_matter(name, weights, dialect, figures, licence),
        f"# {name.partition('/')[2]}",
        _summary(weights, step),
        _loading(name, weights, dialect),
        _figures(figures, step),
        _training(weights.config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(
    name: str,
    weights: files.Weights,
    dialect: str,
    figures: Mapping[str, float | None],
    licence: str,
) -> str:
    readers = publishing.READERS[dialect]
    fields: dict[str, Any] = {
        "license": licence,
        # The hub shows how to load a model with one library.
        "library_name": readers[-1] if readers else "vit_jax",
        "pipeline_tag": _task(weights),
        "tags": ["vit_jax", *readers],
    }
    dataset = _dataset(weights.config)
    if dataset and _ON_THE_HUB.fullmatch(dataset):
        fields["datasets"] = [dataset]
    if base := _base(weights.config):
        fields["base_model"] = base
    values = {key: value for key, value in figures.items() if value is not None}
    if values and weights.architecture.num_classes:
        metrics = [
            {"type": _metric(key), "name": key, "value": value}
            for key, value in values.items()
        ]
        known = {"name": dataset or "unknown", "type": dataset or "unknown"}
        result = {"task": {"type": _task(weights)}, "dataset": known}
        fields["model-index"] = [
            {"name": name.partition("/")[2], "results": [result | {"metrics": metrics}]}
        ]
    # JSON is YAML.
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _task(weights: files.Weights) -> str:
    classes = weights.architecture.num_classes
    return "image-classification" if classes else "image-feature-extraction"


def _metric(key: str) -> str:
    figure = key.rpartition("/")[2]
    return "accuracy" if figure == "top1" else figure


def _dataset(config: Mapping[str, Any]) -> str:
    """Of the run, without where it is on that machine."""
    return _named(str(config["data"]["dataset"])) if "data" in config else ""


def _named(dataset: str) -> str:
    """Returns a dataset's name, of one that lies somewhere the end of its path."""
    return _end(dataset) if ":" in dataset else dataset


def _end(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _public(value: Any) -> Any:
    """Returns a value of a recipe without the folders of a machine and its users."""
    if isinstance(value, (list, tuple)):
        return [_public(one) for one in value]
    if not isinstance(value, str):
        return value
    form, place = _FORM.fullmatch(value).groups()  # type: ignore[union-attr]
    return form + _end(place) if _OF_A_MACHINE.match(place) else value


def _base(config: Mapping[str, Any]) -> str:
    """The hub's model that the run started from, if it was one."""
    said = str(config["init_from"]) if "init_from" in config else ""
    row = names.find(said)
    found = row.repository if row else re.sub(r"^hf:(//)?", "", said)
    found = found.partition("@")[0]
    is_url = row is not None or said.startswith("hf:")
    return found if is_url and _ON_THE_HUB.fullmatch(found) else ""


def _summary(weights: files.Weights, step: int) -> str:
    arch = weights.architecture
    count = models.count_parameters(arch)
    trained = f", trained for {step:,} steps" if step else ""
    on = _dataset(weights.config)
    shown = [
        f"A vision model ({models.summary(arch)}, {count:,} parameters){trained}"
        + (f" on {on}" if on else "")
        + ", made with vit_jax.",
    ]
    if arch.num_classes:
        shown.append(f"It has {arch.num_classes} outputs: {_MEANING[weights.problem]}.")
        if weights.label_names:
            listed = [*weights.label_names[:20]]
            more = len(weights.label_names) - len(listed)
            tail = f" and {more} more" if more > 0 else ""
            shown.append(f"Classes: {', '.join(map(_plain, listed))}{tail}.")
    return "\n\n".join(shown)


def _plain(value: Any) -> str:
    """Text that is no mark-up of a table, a tag or a new line."""
    return re.sub(r"[|<>`*_\[\]\\\s]+", " ", str(value)).strip()[:200]


def _loading(name: str, weights: files.Weights, dialect: str) -> str:
    auto = "AutoModelForImageClassification"
    if not weights.architecture.num_classes:
        auto = "AutoModel"
    readers = ("vit_jax", *publishing.READERS[dialect])
    code = {n: _LOADING[n].format(name=name, auto=auto) for n in readers}
    blocks = [f"With {n}:\n\n```python\n{lines}\n```" for n, lines in code.items()]
    absent = [library for library in _LOADING if library not in readers]
    if absent:
        blocks.append(
            f"{' and '.join(absent)} {'have' if len(absent) > 1 else 'has'} no model "
            f"of this architecture; the files are in the form {dialect!r}."
        )
    return "\n\n".join(["## How to load it", *blocks])


def _figures(figures: Mapping[str, float | None], step: int) -> str:
    if not figures:
        return ""
    rows = [
        f"| {_plain(key)} | {'-' if value is None else format(value, '.6g')} |"
        for key, value in figures.items()
    ]
    head = ["| figure | value |", "|---|---|"]
    return "\n".join(["## Figures", "", f"At step {step:,}:", "", *head, *rows])


def _training(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    flat = validation.flatten(config)
    shown = {
        key: _named(str(value)) if key.endswith(".dataset") else _public(value)
        for key, value in flat.items()
        if key not in _PRIVATE
    }
    lines = json.dumps(shown, indent=1, default=str)
    return f"## How it was trained\n\nEvery key of its recipe:\n\n```json\n{lines}\n```"
