"""A folder of weights that as many other libraries as possible load."""

import json
import logging
from pathlib import Path

from vit_jax import errors
from vit_jax.weights import files, outputs, own
from vit_jax.weights.formats import sidecars

# What loads the files of a dialect, beside us. transformers reads timm's by timm.
READERS: dict[str, tuple[str, ...]] = {
    "timm": ("transformers", "timm"),
    "timm_mixer": ("transformers", "timm"),
    "hf_vit": ("transformers",),
    "hf_deit": ("transformers",),
    "hf_deit_distilled": ("transformers",),
    "hf_dinov2": ("transformers",),
    "hf_dinov2_with_registers": ("transformers",),
    own.DIALECT: (),
}


def write(weights: files.Weights, folder: Path, dialect: str = "") -> str:
    """Writes weights in the first dialect of `READERS` that can say all of the model.

    Args:
        weights: What to write.
        folder: Made if need be, for `model.safetensors` and `config.json`.
        dialect: Key of `READERS`; "": the first. What timm cannot say of outputs, that
            they are several labels or numbers, lets transformers' come first.

    Returns:
        The dialect.

    Raises:
        errors.UserError: the dialect asked for cannot hold the model.
    """
    if dialect:
        errors.lookup(READERS, dialect, "dialect")
    reasons = []
    for name in [dialect] if dialect else _in_order(weights):
        try:
            _write(weights, folder, name)
        except errors.UserError as error:
            if dialect:
                raise
            reasons.append(f"{name}: {errors.reason(error)}")
            continue
        if not READERS[name]:
            logging.info("written in our own form: %s", ". ".join(reasons))
        return name
    raise AssertionError("our own form holds every model")


def _in_order(weights: files.Weights) -> list[str]:
    if weights.problem == outputs.SINGLE:
        return list(READERS)
    return sorted(READERS, key=lambda name: name == own.DIALECT or "timm" in name)


def _write(weights: files.Weights, folder: Path, name: str) -> None:
    if name == own.DIALECT:
        own.write(weights, folder)
        return
    files.write(weights, folder, name)
    config = json.loads((folder / sidecars.CONFIG).read_text())
    if config.get("architecture") == "MlpMixer":
        raise errors.UserError("timm has no name for a Mixer of this size")
