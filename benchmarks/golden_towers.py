"""Small models of timm and transformers with their outputs: tests/golden/towers.

    python benchmarks/golden_towers.py [--names=GLOB]

Distilled DeiTs, CLIP, SigLIP, EVA, DINOv3 and a hybrid, one or two blocks each, random
weights, written by their own code beside what that code makes of `images.npy`. Tests
read them where neither torch nor its libraries are installed.
"""

import argparse
import fnmatch
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from timm.models import save_for_hf

FOLDER = Path(__file__).resolve().parent.parent / "tests/golden/towers"
IMAGE, PATCH, WIDTH, HEADS, CLASSES = 8, 4, 16, 2, 3
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm_deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "timm_clip": ("vit_base_patch32_clip_224", {}),
    "timm_clip_quickgelu": ("vit_base_patch32_clip_quickgelu_224", {}),
    "timm_eva": ("eva_giant_patch14_224", {}),
    "timm_radio": ("vit_base_patch16_radio_v3", {"reg_tokens": 1}),
    "timm_hybrid": ("vit_tiny_r_s16_p8_224", {"patch_size": 1}),
    "timm_grey": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "timm_four": ("vit_tiny_patch16_224", {"in_chans": 4}),
    "timm_dinov3": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "timm_rope_ape": ("vit_small_patch16_rope_ape_224", {}),
    "timm_rope_mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "timm_eva02": ("eva02_tiny_patch14_224", {}),
}
TRANSFORMERS: dict[str, tuple[str, str]] = {
    "hf_clip_vision": ("CLIPVisionModel", "pooler_output"),
    "hf_clip_projection": ("CLIPVisionModelWithProjection", "image_embeds"),
    "hf_clip_both": ("CLIPModel", "image_features"),
    "hf_clip_classifier": ("CLIPForImageClassification", "logits"),
    "hf_siglip_vision": ("SiglipVisionModel", "pooler_output"),
    "hf_siglip_both": ("SiglipModel", "image_features"),
    "hf_siglip_classifier": ("SiglipForImageClassification", "logits"),
    "hf_deit_distilled": ("DeiTForImageClassificationWithTeacher", "logits"),
    "hf_dinov3": ("DINOv3ViTModel", "pooler_output"),
}
# Rotary positions follow the grid, which is then no square.
WIDE = ("timm_dinov3", "timm_rope_ape", "timm_rope_mixed", "timm_eva02", "hf_dinov3")
WIDE_IMAGE = (3 * PATCH, 5 * PATCH)
VISION = {
    **{"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1},
    **{"num_attention_heads": HEADS, "image_size": IMAGE, "patch_size": PATCH},
}
TEXT = {
    **{"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1},
    **{"num_attention_heads": HEADS, "vocab_size": 5, "max_position_embeddings": 4},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
}


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Draws every parameter; the spread of activations stays about 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            fan_in = math.prod(value.shape[1:]) if value.ndim in (2, 4) else 0
            if name.endswith("weight") and fan_in:
                value.copy_(noise / math.sqrt(fan_in))
            else:
                value.copy_(0.3 * noise + float("norm" in name and "weight" in name))
    return model.eval()


def _size(name: str) -> tuple[int, int]:
    return WIDE_IMAGE if name in WIDE else (IMAGE, IMAGE)


def of_timm(name: str, folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Saves one of timm's models; returns it."""
    architecture, options = TIMM[name]
    sizes = {
        **{"img_size": _size(name), "patch_size": PATCH, "embed_dim": WIDTH},
        "depth": 1,
        **{"num_heads": HEADS, "mlp_ratio": 1.5, "num_classes": CLASSES},
    }
    model = randomized(timm.create_model(architecture, **(sizes | options)))
    save_for_hf(model, folder, safe_serialization=True)
    return model


def of_transformers(name: str, folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Saves one of transformers' models with its processor; returns its outputs."""
    kind, output = TRANSFORMERS[name]
    cls = getattr(transformers, kind)
    options: dict[str, Any] = VISION | {"projection_dim": CLASSES + 1}
    if "vision_config" in getattr(cls.config_class, "sub_configs", {}):
        options = {"vision_config": VISION, "text_config": TEXT, "projection_dim": 4}
    if output == "logits":
        options |= {"num_labels": CLASSES}
    if kind.startswith("DINOv3"):
        more = {"image_size": list(WIDE_IMAGE), "num_register_tokens": 2}
        options = VISION | more | {"num_hidden_layers": 2}
    model = randomized(cls(cls.config_class(**options)))
    model.save_pretrained(folder)
    processor = next(
        getattr(transformers, f"{part}ImageProcessor")
        for part in ("CLIP", "Siglip", "DeiT", "DINOv3ViT")
        if kind.startswith(part)
    )
    size = {"height": IMAGE, "width": IMAGE}
    short = {"size": {"shortest_edge": IMAGE}, "crop_size": size}
    wide = dict(zip(("height", "width"), WIDE_IMAGE))
    sizes = {"CLIP": short, "Sigl": {"size": size}, "DeiT": {"crop_size": size}}
    sizes["DINO"] = {"size": wide}
    processor(**sizes[kind[:4]]).save_pretrained(folder)

    def outputs(images: torch.Tensor) -> torch.Tensor:
        if output == "image_features":
            found = model.get_image_features(images)
            return found if torch.is_tensor(found) else found.pooler_output
        return getattr(model(images), output)

    return outputs


def main() -> None:
    """Writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default="*")
    args = parser.parse_args()
    for name in fnmatch.filter([*TIMM, *TRANSFORMERS], args.names):
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = (of_timm if name in TIMM else of_transformers)(name, folder)
        channels = TIMM[name][1].get("in_chans", 3) if name in TIMM else 3
        shape = (2, channels, *_size(name))
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        with torch.no_grad():
            outputs = made(torch.from_numpy(images)).numpy()
        np.save(folder / "images.npy", images.transpose(0, 2, 3, 1))
        np.save(folder / "outputs.npy", outputs)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(json.dumps({"name": name, "bytes": size, "outputs": outputs.shape}))


if __name__ == "__main__":
    main()
