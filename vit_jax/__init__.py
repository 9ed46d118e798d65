"""Vision Transformers in JAX.

    import vit_jax
    loaded = vit_jax.load("ViT-B_16.npz", image_size=384)
    logits = loaded.model(loaded.images(["cat.jpg"]))

    model = vit_jax.create_model("B/16", num_classes=10)
    model = vit_jax.create_model("B/16", pretrained="augreg_in21k", num_classes=10)
    vit_jax.list_models("R50*")
    vit_jax.save(model, "folder", label_names=[...])

Importing this imports nothing heavy; jax and the rest come with the first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vit_jax.data.preprocessing import Preprocessing
    from vit_jax.models.model import Model
    from vit_jax.weights.loaded import Loaded

__all__ = ["__version__", "create_model", "export", "list_models", "load", "save"]

__version__: str  # `__getattr__` asks for it


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    pretrained: str | None = None,
    **options: Any,
) -> Model:
    """Returns a model, an NNX module: `model(images) -> logits`.

    Args:
        name: Size and patch, "B/16", a hybrid, "R50+L/32", or another family,
            "BiT-R50x1", "Mixer-B/16"; see `list_models`.
        num_classes: Outputs of the head; 0: none, the model returns features. A
            pre-trained one has its own by default, and zeros in a new one.
        image_size: Pixels, one number or (height, width); None: 224, or that of the
            pre-trained one.
        seed: Of the initial parameters.
        pretrained: Which published weights of that size, as timm tags them
            ("augreg_in21k") or by a whole name; `list_models("B/16", pretrained=True)`
            has them. None: new ones.
        **options: Any other field of its architecture, e.g. `pool="mean"`.

    Raises:
        errors.UserError: an unknown name or option, or values that do not fit.
    """
    from flax import nnx

    from vit_jax import errors, models

    if pretrained is not None:
        from vit_jax.weights import names
        from vit_jax.weights import pretrained as weights

        size = None if image_size is None else models.pair(image_size)
        row = names.of_model(name, pretrained, size)
        loaded = weights.load(
            row.name, image_size=image_size, num_classes=num_classes, **options
        )
        return loaded.model
    if num_classes is None:
        raise errors.UserError(
            f"create_model({name!r}) makes a new model and wants to know its outputs: "
            "num_classes=10, or 0 for features"
        )
    architecture = models.architecture(
        name, num_classes=num_classes, image_size=image_size or 224, **options
    )
    return models.create(architecture, rngs=nnx.Rngs(seed))


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> Loaded:
    """Loads a checkpoint of ours or of any code that `vit_jax.weights` knows.

    Args:
        path: A workdir, a checkpoint in it, a file or folder of another code
            (`.npz`, `.safetensors`, `.pth`; "FILE.pth:teacher" of one that holds
            several models), a URL (`https://`, `gs://`, `hf://ORG/NAME`), a name that
            `list_models(pretrained=True)` has ("facebook/dinov2-base"), or
            "augreg:B/16" for the best published AugReg checkpoint of that name.
        image_size: Pixels, one number or (height, width): the position table is
            resampled for it. None: that of the checkpoint's evaluation.
        num_classes: Another number than the checkpoint's puts a new zero head on; 0
            takes the head off. None: the checkpoint's.
        mesh: Each leaf goes to its shards on it; None: to the default device.
        **options: Fields of the architecture that the tensors do not decide, e.g.
            heads=12, or of a run: dropout=0.1, compute_dtype="bfloat16"; also
            posemb_resample, grid, channels and patch (resized as FlexiViT does it),
            and adapter="FOLDER" for low-rank changes to merge; see `pretrained.load`.

    Returns:
        The model, its architecture and parameters, and how it wants its images.

    Raises:
        errors.UserError: no checkpoint there, or a damaged or unknown one.
    """
    from vit_jax.weights import pretrained

    return pretrained.load(
        path, image_size=image_size, num_classes=num_classes, mesh=mesh, **options
    )


def save(
    model: Model,
    path: str | Path,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    problem: str = "single_label",
) -> Path:
    """Writes a model as a checkpoint that `load` and every command take.

    Args:
        model: What `create_model` or `load` returned, trained or not.
        path: A new or an empty folder. It appears whole or not at all.
        preprocessing: How images reach the model, e.g. `loaded.preprocessing`, or its
            fields by name; the image size is the model's. None: resized to that size,
            (pixels - 127.5) / 127.5.
        label_names: One for each output; None: there are none.
        problem: "single_label", "multi_label" where each output is a sigmoid, or
            "regression" where it is a number.

    Returns:
        The folder, as an absolute path.

    Raises:
        errors.UserError: no such model, names or preprocessing that do not fit it,
            something at `path`, or it cannot be written.
    """
    from vit_jax.weights import saving

    return saving.save(
        model,
        path,
        preprocessing=preprocessing,
        label_names=label_names,
        problem=problem,
    )


def export(
    checkpoint: str | Path | Loaded,
    path: str | Path,
    *,
    format: str = "stablehlo",
    image_size: int | tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Writes a model with normalisation and labels inside as a file of another tool.

    Args:
        checkpoint: What `load` takes, or returned.
        path: A path where nothing is; it appears whole or not at all.
        format: "stablehlo", "savedmodel", "tflite" or "onnx".
        image_size: Pixels, as `load`; of a path alone.

    Returns:
        "out", "format", "bytes", "outputs" (their shapes by name) and "difference",
        the largest from our own outputs that a run with the other tool gave.

    Raises:
        errors.UserError: an unknown format, a tool that is not installed, something at
            `path`, a model that the tool cannot hold, or outputs that differ.
    """
    from vit_jax.weights.exporting import writing

    return writing.export(checkpoint, path, format=format, image_size=image_size)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Returns the named models that match a shell pattern, e.g. "R50*".

    Any other patch size works too: "B/20", "S/16x8".

    Args:
        pattern: Of names, or of the sizes of pre-trained models.
        pretrained: Names of published weights that `load` takes, instead of sizes that
            `create_model` does.
    """
    if pretrained:
        from vit_jax.weights import names

        return names.listed(pattern)
    from vit_jax import models

    return models.list_names(pattern)


def __getattr__(name: str) -> str:
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("vit_jax")
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
