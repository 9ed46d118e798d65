"""Logits at image sizes that a checkpoint was not trained at, against each code's own.

    python -m benchmarks.positions [--golden=tests/golden/positions]

Models with random weights, made by transformers and timm, are stored as those store
them and run by them at five sizes (two not square, up and down, and mixed); `vit_jax.
load(path, image_size=...)` must give the same logits within 1e-3. Google's and DINOv2's
own codes are represented by what they do to the table: `scipy.ndimage.zoom(order=1)`,
and PyTorch's bicubic with a scale of (new + 0.1) / old. Writes benchmarks/positions.md;
with --golden also the models and two sizes' logits, which tests compare without torch.
"""

import argparse
import copy
import itertools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import scipy.ndimage
import timm
import torch
import transformers
from timm import layers
from timm.models import vision_transformer
from torch.nn import functional

import vit_jax
from vit_jax import cli, models, tree
from vit_jax.weights import files

TRAINED = 16  # pixels, in patches of 4: a grid of 4x4
SIZES = ((24, 24), (8, 8), (12, 28), (32, 8), (16, 40))
RECTANGLE = (8, 32)  # as many patches in other rows and columns
GOLDEN_SIZES = ((12, 28), (24, 24))
BOUND = 1e-3

Logits = Callable[[tuple[int, int], np.ndarray], np.ndarray]
Reference = Callable[[Path], Logits]


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """The model with values that no initialiser gives, tables of deviation 0.5."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.5 if "pos" in name and "embed" in name else 0.2
            value.copy_(scale * noise + float("norm" in name and "weight" in name))
    return model.eval()


def as_torch(images: np.ndarray) -> torch.Tensor:
    """[b, h, w, 3] to PyTorch's order."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def hugging_face(name: str, **options: Any) -> Reference:
    """A model of transformers by the name of its class."""

    def make(folder: Path) -> Logits:
        cls = getattr(transformers, name)
        config = cls.config_class(
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"image_size": TRAINED, "patch_size": 4, "num_labels": 5},
            **options,
        )
        model = randomized(cls(config))
        model.save_pretrained(folder)
        asked = "dinov2" not in config.model_type  # it always interpolates
        more = {"interpolate_pos_encoding": True} if asked else {}

        def logits(size: tuple[int, int], images: np.ndarray) -> np.ndarray:
            # That with registers takes only one image at another size.
            with torch.no_grad():
                rows = [model(x[None], **more).logits for x in as_torch(images)]
            return torch.cat(rows).numpy()

        return logits

    return make


TINY = {
    **{"img_size": TRAINED, "patch_size": 4, "embed_dim": 16, "depth": 1},
    **{"num_heads": 2, "num_classes": 5},
}


def in_timm(
    name: str, *, filtered: dict[str, Any] | None = None, **options: Any
) -> Reference:
    """A model of timm's zoo, smaller; `filtered`: resampled as a file is loaded."""

    def make(folder: Path) -> Logits:
        arguments = TINY | options
        model = randomized(timm.create_model(name, **arguments))
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        config = {"architecture": name, "model_args": arguments, "num_classes": 5}
        stored(folder, weights, config)

        def logits(size: tuple[int, int], images: np.ndarray) -> np.ndarray:
            if filtered is None:
                sized = copy.deepcopy(model)
                sized.set_input_size(img_size=size)
            else:
                sized = timm.create_model(name, **(arguments | {"img_size": size}))
                grid = (size[0] // 4, size[1] // 4)
                table = layers.resample_abs_pos_embed(
                    *(model.pos_embed, grid, (4, 4)),
                    num_prefix_tokens=model.pos_embed.shape[1] - 16,
                    **filtered,
                )
                sized.load_state_dict(model.state_dict() | {"pos_embed": table})
            with torch.no_grad():
                return sized.eval()(as_torch(images)).numpy()

        return logits

    return make


def stored(folder: Path, weights: dict[str, np.ndarray], config: dict | None) -> None:
    """Writes a folder as timm's hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=1))


def facebook(folder: Path) -> Logits:
    """DINOv2's own file: timm's names, a mask token, and no config."""
    options = {"init_values": 1.0, "embed_dim": 192, "num_heads": 3, "depth": 1}
    model = randomized(vision_transformer.VisionTransformer(**(TINY | options)))
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    stored(folder, weights | {"mask_token": np.zeros((1, 192), np.float32)}, None)

    def logits(size: tuple[int, int], images: np.ndarray) -> np.ndarray:
        sized = copy.deepcopy(model)
        rows, columns = size[0] // 4, size[1] // 4
        table = model.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        scale = (float(rows + 0.1) / 4, float(columns + 0.1) / 4)
        table = functional.interpolate(table, scale_factor=scale, mode="bicubic")
        table = table.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
        sized.set_input_size(img_size=size)
        sized.pos_embed.data = torch.cat([model.pos_embed[:, :1], table], 1)
        with torch.no_grad():
            return sized(as_torch(images)).numpy()

    return logits


def google(folder: Path, *, big_vision: bool = False) -> Logits:
    """The released code: its file, and the same with a zoomed table."""
    path = folder / "model.npz"
    name = "Transformer/posembed_input/pos_embedding"
    prefix = 1
    weights = random_google(pool="token")
    if big_vision:
        name, prefix = "params/pos_embedding", 0
        weights = random_google(pool="mean")
        moved = {
            f"params/{key}": value
            for key, value in weights.items()
            if "pos_embedding" not in key
        }
        weights = moved | {name: random_table(16, 16)}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **weights)

    def logits(size: tuple[int, int], images: np.ndarray) -> np.ndarray:
        rows, columns = size[0] // 4, size[1] // 4
        table = weights[name][0, prefix:].reshape(4, 4, -1)
        table = scipy.ndimage.zoom(table, (rows / 4, columns / 4, 1), order=1)
        table = table.reshape(1, rows * columns, -1)
        table = np.concatenate([weights[name][:, :prefix], table], axis=1)
        zoomed = folder / "zoomed.npz"
        np.savez(zoomed, **(weights | {name: table}))
        model = vit_jax.load(
            zoomed, heads=2, image_size=size, grid=(rows, columns)
        ).model
        return np.asarray(model(images))

    return logits


def random_table(entries: int, width: int) -> np.ndarray:
    """A position table of deviation 0.5."""
    rng = np.random.default_rng(1)
    return (0.5 * rng.standard_normal((1, entries, width))).astype(np.float32)


def random_google(pool: str) -> dict[str, np.ndarray]:
    """Tensors of a small model under the names of its code."""
    options = {"width": 16, "depth": 1, "mlp_width": 32, "heads": 2, "pool": pool}
    arch = models.architecture(
        "Ti/4", num_classes=5, image_size=TRAINED, gelu="tanh", **options
    )
    rng = np.random.default_rng(0)
    _, like = models.abstract(arch)
    leaves = {
        key: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)
        for key, leaf in tree.named_leaves(like)
    }
    leaves["posemb"] = random_table(leaves["posemb"].shape[1], 16)
    weights = files.Weights(arch, tree.from_named(leaves), None, "google")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        files.write(weights, path, "google")
        with np.load(path) as archive:
            return dict(archive)


MLP = {"intermediate_size": 32}
RATIO = {"mlp_ratio": 2}
ZOO = "vit_base_patch16_224"
REFERENCES: dict[str, Reference] = {
    "transformers ViT": hugging_face("ViTForImageClassification", **MLP),
    "transformers DeiT": hugging_face("DeiTForImageClassification", **MLP),
    "transformers ViT-MSN": hugging_face("ViTMSNForImageClassification", **MLP),
    "transformers DINOv2": hugging_face("Dinov2ForImageClassification", **RATIO),
    "transformers DINOv2 with registers": hugging_face(
        "Dinov2WithRegistersForImageClassification", **RATIO
    ),
    "timm ViT": in_timm(ZOO),
    "timm ViT, no class token": in_timm(ZOO, class_token=False, global_pool="avg"),
    "timm DeiT": in_timm("deit_tiny_patch16_224"),
    "timm DeiT III": in_timm("deit3_small_patch16_224"),
    "timm ViT with registers": in_timm("vit_small_patch14_reg4_dinov2"),
    "timm FlexiViT, as loaded": in_timm(
        "flexivit_small", filtered={"interpolation": "bilinear", "antialias": False}
    ),
    "DINOv2's own file": facebook,
    "Google": google,
    "big_vision": lambda folder: google(folder, big_vision=True),
}


# Without a code of their own here, or the same as another's.
NOT_GOLDEN = (
    *("Google", "big_vision", "DINOv2's own file"),
    *("timm DeiT", "transformers ViT-MSN"),
)


def options_of(kind: str) -> dict[str, Any]:
    """What its file does not say."""
    return {"heads": 2} if kind in ("Google", "big_vision") else {}


def images_at(size: tuple[int, int]) -> np.ndarray:
    """Two images [2, height, width, 3]."""
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    return rng.standard_normal((2, *size, 3)).astype(np.float32)


def differences(kind: str, folder: Path, golden: Path | None) -> dict[str, float]:
    """Largest differences of logits by size, in units of 1 or the largest logit."""
    reference = REFERENCES[kind](folder)
    kept, found = {}, {}
    for size in (*SIZES, RECTANGLE):
        images = images_at(size)
        wanted = reference(size, images)
        loaded = vit_jax.load(folder_of(folder), image_size=size, **options_of(kind))
        difference = np.abs(np.asarray(loaded.model(images)) - wanted).max()
        found[f"{size[0]}x{size[1]}"] = float(difference / max(1, abs(wanted).max()))
        if size in GOLDEN_SIZES:
            kept[f"{size[0]}x{size[1]}"] = wanted
    if golden is not None and kind not in NOT_GOLDEN:
        name = kind.lower().replace(",", "").replace(" ", "_")
        for file in folder.iterdir():
            (golden / name).mkdir(parents=True, exist_ok=True)
            (golden / name / file.name).write_bytes(file.read_bytes())
        np.savez(golden / name / "logits.npz", **kept)
    return found


# `interpolate`'s arguments for each method that is PyTorch's.
METHODS: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "centers": {"mode": "bilinear", "align_corners": False, "antialias": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bicubic_corners": {"mode": "bicubic", "align_corners": True},
    "bicubic_offset": {"mode": "bicubic"},
    "nearest": {"mode": "nearest-exact"},
}
OLD_GRIDS = ((4, 4), (7, 5))
NEW_GRIDS = ((6, 3), (2, 9), (8, 8))


def write_tables(path: Path) -> None:
    """Random tables [1, n, 2] and what PyTorch makes of them, in float64."""
    rng = np.random.default_rng(0)
    values = {}
    for old in OLD_GRIDS:
        table = rng.standard_normal((1, math.prod(old), 2))
        values[f"{old[0]}x{old[1]}"] = table
        image = torch.from_numpy(table).reshape(1, *old, 2).permute(0, 3, 1, 2)
        for new, (method, options) in itertools.product(NEW_GRIDS, METHODS.items()):
            size: dict[str, Any] = {"size": new}
            if method == "bicubic_offset":
                size = {"scale_factor": [(n + 0.1) / o for n, o in zip(new, old)]}
            result = functional.interpolate(image, **size, **options)
            result = result.permute(0, 2, 3, 1).reshape(1, -1, 2).numpy()
            values[f"{method} {old[0]}x{old[1]} {new[0]}x{new[1]}"] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **values)


def folder_of(folder: Path) -> Path:
    """What to load: the folder, or the one file of Google's in it."""
    return folder / "model.npz" if (folder / "model.npz").exists() else folder


def table_of(found: dict[str, dict[str, float]]) -> str:
    """The committed table, in Markdown."""
    sizes = list(next(iter(found.values())))
    worst = max(value for row in found.values() for value in row.values())
    lines = [
        "# Position tables at other image sizes",
        "",
        "Written by `python -m benchmarks.positions`: random models of 16x16 pixels in",
        "patches of 4, largest difference of logits over max(1, largest logit).",
        f"Bound {BOUND:g}, worst {worst:.1e}.",
        f"transformers {transformers.__version__}, timm {timm.__version__}, torch "
        f"{torch.__version__.partition('+')[0]}.",
        "",
        "| | " + " | ".join(sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for kind, row in found.items():
        cells = " | ".join(f"{value:.1e}" for value in row.values())
        lines.append(f"| {kind} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compares all, writes the table, prints the worst cell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--only", default="", help="of the names, for a quick look")
    args = parser.parse_args()
    if args.golden:
        write_tables(args.golden / "tables.npz")
    found = {}
    for kind in REFERENCES:
        if args.only in kind:
            with tempfile.TemporaryDirectory() as folder:
                found[kind] = differences(kind, Path(folder) / "model", args.golden)
            print(kind, found[kind], flush=True)
    table = table_of(found)
    if not args.only:
        (Path(__file__).parent / "positions.md").write_text(table)
    worst = max(value for row in found.values() for value in row.values())
    cli.print_figures({"worst": worst, "bound": BOUND, "within": worst <= BOUND})


if __name__ == "__main__":
    main()
