"""A `config.json` of transformers, read and written.

What it says of the outputs is in `huggingface_outputs`, what lies beside it, of images,
in `processors`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Config
from vit_jax.weights.dialects import processors, pytorch
from vit_jax.weights.formats.sidecars import PREPROCESSOR
from vit_jax.weights.source import Tensors

GELUS = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_accurate": "tanh",
    "quick_gelu": "quick",
}


def value(config: Config | None, key: str) -> Any:
    """Returns what a config says of a key, None where it says nothing."""
    return None if config is None or key not in config else config[key]


def says(
    tensors: Tensors,
    model_types: tuple[str, ...],
    heads: int | None = None,
    acts: Mapping[str, str] = GELUS,
) -> dict[str, Any]:
    """Returns the fields that a config says; without one those of the dialect alone.

    Args:
        tensors: With their config.
        model_types: That the config may have; the first is what messages call them.
        heads: Of the attention, where the config does not say it.
        acts: From a `hidden_act` to our `gelu`.

    Raises:
        errors.UserError: a config of another function than ours.
    """
    config = tensors.config
    kind, act = value(config, "model_type"), value(config, "hidden_act")
    if kind is not None and kind not in model_types:
        raise errors.UserError(
            f"config.json: model_type={str(kind)[:50]!r} has the tensors of a "
            f"{model_types[0]} and may be another function; it is not supported."
        )
    fields: dict[str, Any] = {}
    if act is not None:
        if not pytorch.is_one_of(act, acts):
            raise errors.UserError(
                f"config.json: hidden_act={str(act)[:50]!r}; ours: {', '.join(acts)}."
            )
        fields["gelu"] = acts[act]
    pooled = any(name.endswith("pooler.dense.weight") for name in tensors.names)
    pooler_act = value(config, "pooler_act")
    if pooled and pooler_act not in (None, "tanh"):
        raise errors.UserError(
            f"config.json: pooler_act={str(pooler_act)[:50]!r}; ours: tanh."
        )
    said = config or {}
    heads = pytorch.whole(said, "num_attention_heads") or heads
    epsilon = pytorch.number(said, "layer_norm_eps")
    size = pytorch.size_of(said, "image_size")
    found = {"heads": heads, "norm_epsilon": epsilon, "image_size": size}
    return fields | {key: value for key, value in found.items() if value is not None}


def write(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
    *,
    model_type: str,
    classifier: str,
    bare: str,
    **more: Any,
) -> dict[str, Any]:
    """Returns a config, with what its model type adds, and that of the processor."""
    acts = {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
    names = label_names or [f"LABEL_{i}" for i in range(arch.num_classes)]
    prepared = preprocessing or Preprocessing(arch.image_size)
    pooler = {"pooler_output_size": arch.pre_logits_width} if arch.pre_logits else {}
    return {
        "architectures": [classifier if arch.num_classes else bare],
        "model_type": model_type,
        "hidden_size": arch.width,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.heads,
        "hidden_act": acts[arch.gelu],
        "layer_norm_eps": arch.norm_epsilon,
        "qkv_bias": arch.qkv_bias,
        "image_size": pytorch.side(arch.image_size),
        "patch_size": pytorch.side(arch.patch),
        "num_channels": arch.channels,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        **pooler,
        **more,
        PREPROCESSOR: processors.write(prepared),
    }


def of_vit(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a ViT."""
    return write(
        *(arch, preprocessing, label_names),
        model_type="vit",
        classifier="ViTForImageClassification",
        bare="ViTModel",
        intermediate_size=arch.mlp_width,
    )


def of_deit(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a DeiT."""
    return write(
        *(arch, preprocessing, label_names),
        model_type="deit",
        classifier="DeiTForImageClassification",
        bare="DeiTModel",
        intermediate_size=arch.mlp_width,
    )


def _mlp_ratio(arch: VitArchitecture) -> int:
    """The `mlp_ratio`, a whole number, that gives the MLP's width.

    A SwiGLU has two thirds of it, and up to a multiple of 8.
    """
    for ratio in range(1, 65):
        hidden = arch.width * ratio
        if arch.mlp == "swiglu":
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == arch.mlp_width:
            return ratio
    raise errors.UserError(
        f"a DINOv2's MLP has a whole number of times the width (a SwiGLU two thirds "
        f"of it); this {arch.name} has mlp_width={arch.mlp_width} and "
        f"width={arch.width}. Write another dialect."
    )


def of_dinov2(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a DINOv2, with registers or without."""
    more: dict[str, Any] = {"use_mask_token": arch.mask_token}
    if arch.registers:
        more = {"num_register_tokens": arch.registers}
    name = "Dinov2WithRegisters" if arch.registers else "Dinov2"
    return write(
        *(arch, preprocessing, label_names),
        model_type="dinov2_with_registers" if arch.registers else "dinov2",
        classifier=f"{name}ForImageClassification",
        bare=f"{name}Model",
        mlp_ratio=_mlp_ratio(arch),
        use_swiglu_ffn=arch.mlp == "swiglu",
        layerscale_value=1.0,
        **more,
    )


def prepares(
    kind: str, *, takes_any_size: bool = False, **published: Any
) -> Callable[[VitArchitecture, Config | None], Preprocessing]:
    """Returns how a model is evaluated: as its processor says, or as published."""

    def preprocessing(arch: VitArchitecture, config: Config | None) -> Preprocessing:
        said = value(config, PREPROCESSOR)
        if not isinstance(said, Mapping):
            return processors.published(image_size=arch.image_size, **published)
        return processors.read(
            said, kind, arch.image_size, takes_any_size=takes_any_size
        )

    return preprocessing
