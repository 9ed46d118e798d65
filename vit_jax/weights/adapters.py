"""Adapters: low-rank changes of a model's blocks, in files of their own.

The format is PEFT's: a folder with `adapter_config.json` and
`adapter_model.safetensors`, tensors under the names that transformers' ViT has since
its version 5 ("base_model.model.vit.layers.0.attention.q_proj.lora_A.weight" [rank,
inputs], "lora_B" [outputs, rank]), a trained head as "classifier"; the names of before
are read, too. Kernels that transformers has no name for are called as here,
"blocks.0.tokens.up".
"""

import dataclasses
import functools
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors, models
from vit_jax.checkpoints import checkpoint
from vit_jax.host import files as host_files
from vit_jax.learning import lora as lora_lib
from vit_jax.settings import documents
from vit_jax.weights import files, outputs, source
from vit_jax.weights.formats import digests, safetensors, sidecars
from vit_jax.weights.source import Tensors

DIALECT = "peft"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_ROOT = "base_model.model."
_BLOCKS = f"{lora_lib.PREFIX}/blocks/"
# Path of a kernel in a block -> transformers' name of it in a layer of its ViT.
_IN_LAYER = {
    "attn/query": "attention.q_proj",
    "attn/key": "attention.k_proj",
    "attn/value": "attention.v_proj",
    "attn/out": "attention.o_proj",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
# Of PEFT: what changes a model in another way than by one scale of A B.
_OTHERWISE = ("use_dora", "rank_pattern", "alpha_pattern", "layer_replication")
_SAID = ("label_names", "pre_logits")  # in the metadata of the tensors' file
_KERNELS = {theirs: ours for ours, theirs in _IN_LAYER.items()} | {
    "attention.attention.query": "attn/query",
    "attention.attention.key": "attn/key",
    "attention.attention.value": "attn/value",
    "attention.output.dense": "attn/out",
    "intermediate.dense": "mlp/up",
    "output.dense": "mlp/down",
}
_LAYER = re.compile(
    r"(?:.*\.)?(?:layers?|blocks)\.(\d{1,4})\.(.+)\.lora_([AB])\.weight"
)
_HEAD = re.compile(r"(?:.*\.)?classifier\.(weight|bias)")


@dataclass(frozen=True)
class Adapter:
    """What is added to a model.

    Attributes:
        scale: Of the products.
        changes: Kernel -> (A [layer, inputs, rank], B [layer, rank, outputs]).
        head: "head/kernel" and "head/bias", or neither.
        label_names: Of the head's outputs, or None.
        pre_logits: Whether the model has such a layer; None: nothing says.
    """

    scale: float
    changes: Mapping[str, tuple[np.ndarray, np.ndarray]]
    head: Mapping[str, np.ndarray]
    label_names: tuple[str, ...] | None
    pre_logits: bool | None


def merged(leaves: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Returns the model's own leaves of a run with `lora`, changed.

    Args:
        leaves: Of the run's checkpoint.
        config: Of the run.
    """
    added = [name for name in leaves.shapes if name.startswith(f"{lora_lib.PREFIX}/")]
    if not added:
        return leaves
    scale = config["lora"]["alpha"] / config["lora"]["rank"]
    own = {name: name for name in leaves.shapes if name not in added}
    changes = {}
    for name in own:
        a, b = lora_lib.names(name)
        if a in added:
            read = functools.partial(_changed, leaves, name, a, b, scale)
            changes[name] = leaves.shapes[name], read
    return leaves.renamed(own).changed(changes)


def _changed(leaves: Tensors, name: str, a: str, b: str, scale: float) -> np.ndarray:
    found, left, right = (leaves.read(each) for each in (name, a, b))
    return np.asarray(lora_lib.changed(found, left, right, scale))


def apply(weights: files.Weights, path: str | Path) -> files.Weights:
    """Returns weights with an adapter merged into them.

    Args:
        weights: Of the model that the adapter was trained on.
        path: The adapter's folder.

    Raises:
        errors.UserError: no adapter there, or not one for this model.
    """
    adapter = read(path)
    leaves, arch = weights.leaves, weights.architecture
    changes: dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]] = {}
    for name, (a, b) in adapter.changes.items():
        found = leaves.shapes.get(name)
        wanted = a.shape[0], a.shape[1], b.shape[2]
        if found is None or lora_lib.flat(name, found) != wanted:
            raise errors.UserError(
                f"adapter {path} changes {name} of {wanted[0]} layers, {wanted[1]} x "
                f"{wanted[2]}; this {arch.name} has {found or 'none'}: it was trained "
                "on another model"
            )
        read_kernel = functools.partial(leaves.read, name)
        make = functools.partial(_with, read_kernel, a, b, adapter.scale)
        changes[name] = found, make
    for name, array in adapter.head.items():
        changes[name] = array.shape, functools.partial(np.asarray, array)
    if adapter.pre_logits is False and arch.pre_logits_width:
        rest = [name for name in leaves.shapes if not name.startswith("pre_logits/")]
        leaves = leaves.renamed({name: name for name in rest})
        arch = models.with_options(arch, {"pre_logits": False})
    weights = dataclasses.replace(
        weights, architecture=arch, leaves=leaves.changed(changes)
    )
    if "head/kernel" not in adapter.head:
        return weights
    inputs, classes = adapter.head["head/kernel"].shape
    if inputs != arch.feature_width:
        raise errors.UserError(
            f"the head of adapter {path} reads {inputs} features, this {arch.name} has "
            f"{arch.feature_width}: it was trained on another model"
        )
    return dataclasses.replace(
        weights,
        architecture=arch.replace(num_classes=classes),
        label_names=adapter.label_names,
        label_ids=None,
    )


def _with(
    kernel: Callable[[], np.ndarray], a: np.ndarray, b: np.ndarray, scale: float
) -> np.ndarray:
    return np.asarray(lora_lib.changed(kernel(), a, b, scale))


def read(path: str | Path) -> Adapter:
    """Reads an adapter in PEFT's format.

    Raises:
        errors.UserError: no adapter there, or of a kind that is not plain LoRA.
    """
    folder = host_files.expanded(path)
    config = sidecars.read_json(folder / CONFIG)
    file = folder / TENSORS
    if config is None or not file.is_file():
        raise errors.UserError(
            f"{path} is no adapter; want a folder with {CONFIG} and {TENSORS}"
        )
    scale = _scale(str(path), config)
    with source.reading(str(file), safetensors.KIND):
        metadata = safetensors.read_metadata(file)
        said = _said(metadata)
        with digests.checked(safetensors.open(file)) as opened:
            tensors = dict(opened)
    parts: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    head = {}
    for name, array in tensors.items():
        if found := _LAYER.fullmatch(name):
            ours = f"blocks/{_KERNELS.get(found[2], found[2].replace('.', '/'))}/kernel"
            parts.setdefault(ours, {})[found[3], int(found[1])] = array.T
        elif found := _HEAD.fullmatch(name):
            ours = "head/kernel" if found[1] == "weight" else "head/bias"
            head[ours] = array.T
        else:
            raise errors.UserError(
                f"adapter {path}: nothing here takes its {name} {array.shape}"
            )
    changes = {name: _stacked(f"{path}: {name}", some) for name, some in parts.items()}
    names = outputs.names(said.get("label_names"), f"adapter {path}: label_names")
    return Adapter(scale, changes, head, names, said.get("pre_logits"))


def _said(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata of an adapter's tensors say, beside them."""
    said = {key: documents.parse(metadata[key]) for key in _SAID if key in metadata}
    kinds = {"label_names": list, "pre_logits": bool}
    return documents.checked(said, {key: kinds[key] for key in said})


def _scale(path: str, config: Mapping[str, Any]) -> float:
    """The factor of all products of an adapter.

    Raises:
        errors.UserError: it is not one of plain LoRA, with one rank and one alpha.
    """
    asked = {key: config[key] for key in ("peft_type", *_OTHERWISE) if key in config}
    kind = asked.pop("peft_type", None)
    if kind != "LORA" or any(asked.values()):
        asked = {key: value for key, value in asked.items() if value}
        raise errors.UserError(
            f"adapter {path} is {kind} {str(asked)[:200]}; want plain LoRA of one rank "
            "and alpha"
        )
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        rooted = "use_rslora" in config and config["use_rslora"]
        scale = alpha / (math.sqrt(rank) if rooted else rank)
        if not math.isfinite(scale):
            raise ValueError(scale)
        return scale
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise errors.UserError(
            f"adapter {path}: its {CONFIG} says no rank r and lora_alpha: {error!r}"
        ) from error


def _stacked(
    what: str, parts: Mapping[tuple[str, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The A and the B of all layers; layers that are not there change nothing."""
    depth = 1 + max(layer for _, layer in parts)
    if set(parts) != {(m, i) for m in "AB" for i in range(depth)}:
        raise errors.UserError(f"adapter {what}: want A and B of all {depth} layers")
    for m in "AB":
        if len(shapes := {parts[m, i].shape for i in range(depth)}) > 1:
            raise errors.UserError(f"adapter {what}: {m} of shapes {sorted(shapes)}")
    a, b = (np.stack([parts[m, i] for i in range(depth)]) for m in "AB")
    return a.astype(np.float32), b.astype(np.float32)


def write(run: str, target: Path) -> dict[str, Any]:
    """Writes what a run with `lora` has learned, without the model that it changes.

    Args:
        run: A workdir, or a checkpoint in it.
        target: A folder.

    Returns:
        Its size and what it is.

    Raises:
        errors.UserError: a run without `lora`, or it cannot be written.
    """
    stored = checkpoint.StoredParams(run)
    leaves = Tensors(stored.shapes, stored.read, label=run)
    config = stored.description.config
    tensors, modules = _tensors(leaves)
    if not tensors:
        raise errors.UserError(
            f"{run} has no adapter: only runs with --config.lora.rank have"
        )
    frozen = set(re.findall(r"\w+", config["optimizer"]["freeze"]))
    if frozen and not {"all", "lora"} <= frozen <= {"all", "lora", "head"}:
        raise errors.UserError(
            f"{run} has trained more than its adapter and its head (optimizer.freeze="
            f"{config['optimizer']['freeze']!r}); want --dialect=vit_jax or that of a "
            "code, which write the merged model"
        )
    said: dict[str, Any] = {
        "pre_logits": stored.description.architecture.pre_logits_width > 0
    }
    if names := stored.description.label_names:
        said["label_names"] = names
    metadata = {key: json.dumps(said[key]) for key in said}
    described = _described(config, modules, "head/kernel" in leaves.shapes)
    try:
        target.mkdir(parents=True, exist_ok=True)
        host_files.write_whole(target / CONFIG, json.dumps(described, indent=2))
        safetensors.write(Tensors.of(tensors), target / TENSORS, metadata)
        digests.write(target / TENSORS)
    except OSError as error:
        raise errors.UserError(f"{target} cannot be written: {error}") from error
    size = (target / TENSORS).stat().st_size
    logging.info("wrote %s: %d tensors, %.2f MB", target, len(tensors), size / 1e6)
    return {"bytes": size, "rank": described["r"], "alpha": described["lora_alpha"]}


def _tensors(leaves: Tensors) -> tuple[dict[str, np.ndarray], set[str]]:
    """An adapter's tensors by PEFT's names, and which modules of a layer they change.

    None of a run without `lora`.
    """
    tensors: dict[str, np.ndarray] = {}
    modules = set()
    for name in leaves.shapes:
        if not name.startswith(_BLOCKS):
            continue
        path, _, matrix = name.removeprefix(_BLOCKS).rpartition("/")
        known = path in _IN_LAYER
        start = f"{_ROOT}vit.layers" if known else f"{_ROOT}blocks"
        module = _IN_LAYER[path] if known else path.replace("/", ".")
        modules.add(module)
        for layer, array in enumerate(leaves.read(name)):
            key = f"{start}.{layer}.{module}.lora_{matrix.upper()}.weight"
            tensors[key] = np.ascontiguousarray(array.T)
    for ours, theirs in (("head/kernel", "weight"), ("head/bias", "bias")):
        if modules and ours in leaves.shapes:
            array = np.ascontiguousarray(leaves.read(ours).T)
            tensors[f"{_ROOT}classifier.{theirs}"] = array
    return tensors, modules


def _described(config: Mapping[str, Any], modules: set[str], head: bool) -> dict:
    """What PEFT reads of an adapter."""
    inside = "|".join(re.escape(module) for module in sorted(modules))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": config["init_from"],
        "r": config["lora"]["rank"],
        "lora_alpha": config["lora"]["alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": rf"(.*\.)?(layers|blocks)\.\d+\.({inside})",
        "modules_to_save": ["classifier"] if head else None,
    }
