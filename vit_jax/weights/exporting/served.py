"""What is exported: a function from pixels to what they say, and what to know of it."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors, models
from vit_jax.learning import losses
from vit_jax.models import roles
from vit_jax.models.model import Model
from vit_jax.weights.loaded import Loaded, check_color

# What a run decides and a file has no use for: nothing is recomputed, placed or
# fused by one maker's library, and what is computed is exact to float32.
PLAIN = {"remat": "none", "attention": "einsum", "compute_dtype": "float32"}


@dataclass(frozen=True)
class Served:
    """A model as others run it.

    Attributes:
        call: uint8 images [b, height, width, 3] to float32 outputs by name: "logits"
            [b, classes] and, where they mean some, "probabilities"; without a head
            "features" [b, d]. Pure, of any b; parameters are constants in it.
        image_size: (height, width), pixels.
        manifest: What the file says of itself: labels, preprocessing, outputs.
    """

    call: Callable[[jax.Array], dict[str, jax.Array]]
    image_size: tuple[int, int]
    manifest: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """A name a class; () where the checkpoint has none."""
        return tuple(self.manifest["labels"] or ())

    def to_json(self) -> str:
        """Returns the manifest as text."""
        return json.dumps(self.manifest, indent=1, ensure_ascii=False)

    def sample(self, batch: int) -> np.ndarray:
        """Returns random pixels [batch, height, width, 3], always the same."""
        draw = np.random.default_rng(0)
        return draw.integers(0, 256, (batch, *self.image_size, 3), np.uint8)


def served(loaded: Loaded) -> Served:
    """Returns what a checkpoint computes, with its normalisation inside.

    Images are resized and cropped before: the manifest says how, and no tool's resize
    gives the same pixels as another's.

    Raises:
        errors.UserError: images of other than three channels; outputs of every token.
    """
    check_color(loaded.architecture)
    model = _plain(loaded)
    mean = np.array(loaded.preprocessing.mean, np.float32)[None, None, None]
    std = np.array(loaded.preprocessing.std, np.float32)[None, None, None]
    has_head = bool(loaded.architecture.num_classes)
    loss = losses.PROBLEMS[loaded.problem] if has_head else None
    meaning = None if loss is None else losses.LOSSES[loss].probabilities

    def call(images: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            found = model((images.astype(jnp.float32) - mean) / std)
        if not has_head:
            return {"features": found}
        if meaning is None:
            return {"logits": found}
        return {"logits": found, "probabilities": meaning(found)}

    size = loaded.preprocessing.image_size
    shapes = jax.eval_shape(call, jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8))
    if any(len(shape.shape) != 2 for shape in shapes.values()):
        raise errors.UserError(
            f"this {loaded.architecture.name} has outputs for every token; want one "
            'vector an image: load it with another pool than "none"'
        )
    widths = {name: shape.shape[-1] for name, shape in shapes.items()}
    return Served(call, size, _manifest(loaded, widths))


def _plain(loaded: Loaded) -> Model:
    """Returns the same model, computing as `PLAIN` says."""
    own = roles.names(type(loaded.architecture), roles.RUN)
    plain: dict[str, Any] = {key: value for key, value in PLAIN.items() if key in own}
    arch = dataclasses.replace(loaded.architecture, **plain)
    graphdef, _ = models.abstract(arch)
    return models.merge(graphdef, models.split(loaded.model)[1])


def _manifest(loaded: Loaded, widths: dict[str, int]) -> dict[str, Any]:
    height, width = loaded.preprocessing.image_size
    return {
        "input": f"uint8 [batch, {height}, {width}, 3], red, green, blue",
        "outputs": {name: f"float32 [batch, {n}]" for name, n in widths.items()},
        "preprocessing": loaded.preprocessing.to_dict(),
        "normalisation": "inside: (pixels - mean) / std; resize and crop before",
        "problem": loaded.problem if loaded.architecture.num_classes else "features",
        "labels": loaded.label_names,
        "label_ids": loaded.label_ids,
        "model": models.summary(loaded.architecture),
        "source": loaded.source,
        "made_by": f"vit_jax {importlib.metadata.version('vit_jax')}",
    }
