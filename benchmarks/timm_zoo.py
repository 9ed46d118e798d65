"""Every Vision Transformer that timm builds, loaded here and compared with timm.

    python benchmarks/timm_zoo.py [--names=GLOB] [--cache=JSON] [--table=MARKDOWN]

For each name that timm lists under `GLOBS`: timm builds the model with one block, all
its parameters are drawn at random (norms, biases, tables and tokens too, so that no
mistake hides behind a zero or a one), timm saves it as its hub does (`config.json` and
`model.safetensors`), `vit_jax.load` reads the folder, and both see the same image. What
has no head is compared by its features. Models of more than `MOST_PATCHES` patches are
built for smaller images. Finished names are kept in the cache, which makes a second run
go on where the first stopped. Exits with 1 if one is wrong.
"""

import argparse
import fnmatch
import gc
import json
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import timm
import torch
from timm.models import save_for_hf

import vit_jax
from vit_jax import errors

GLOBS = ("vit_*", "deit*", "flexivit*", "beit*", "eva*")
BAR = 1e-4  # largest difference of logits, which are of the order of 1
MOST_PATCHES = 1100
MATCHED, REFUSED, OTHER, WRONG = "matched", "refused", "not a plain ViT", "WRONG"
# timm's classes that are other networks; some of their members are plain all the same.
NOT_PLAIN = {
    "Beit": "relative position bias in every attention",
    "Eva": "rotary positions of other kinds, or norms inside attention or MLP",
    "VisionTransformerRelPos": "relative positions by a table or an MLP",
}


def build(name: str) -> torch.nn.Module:
    """Returns timm's model with one block, for images of its size or a smaller one."""
    size: dict[str, int] = {}
    with torch.device("meta"):
        shape = timm.create_model(name, **blocks_of(name)).patch_embed
    grid = getattr(shape, "grid_size", (1, 1))
    if math.prod(grid) > MOST_PATCHES:
        patch = shape.img_size[0] // grid[0]
        size = {"img_size": patch * math.isqrt(MOST_PATCHES)}
    return randomized(timm.create_model(name, **blocks_of(name), **size).eval())


def blocks_of(name: str) -> dict[str, Any]:
    """The arguments that give a model one block."""
    if name.endswith("_sapiens2"):  # a number for each block
        return {"depth": 1, "num_kv_heads": [2]}
    return {"depth": 1}


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
    return model


def compare(name: str) -> dict[str, Any]:
    """Returns the outcome for one name: class, outcome, difference and remark."""
    model = build(name)
    kind = type(model).__name__
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True)
        try:
            loaded = vit_jax.load(folder)
        except errors.UserError as error:
            outcome = OTHER if kind in NOT_PLAIN else REFUSED
            text = str(error).replace(f"{folder}: ", "")
            remark = " ".join(text.split("\n")[:2])[:160]
            return {"class": kind, "outcome": outcome, "remark": remark}
        except Exception as error:
            return {"class": kind, "outcome": WRONG, "remark": repr(error)[:160]}
    size, (height, width) = model.patch_embed.img_size, loaded.architecture.image_size
    images = np.random.default_rng(1).standard_normal((1, *size, 3), np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    # What the patches do not divide timm cuts off at the bottom and right.
    got = np.asarray(loaded.model(images[:, :height, :width]))
    same = got.shape == wanted.shape
    difference = float(abs(got - wanted).max()) if same else math.inf
    return {
        "class": kind,
        "outcome": MATCHED if difference <= BAR else WRONG,
        "difference": difference,
        "deviation": float(wanted.std()),
        "image_size": list(size),
        "remark": "" if same else f"{got.shape} is not timm's {wanted.shape}",
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the report in Markdown."""
    counts = Counter(row["outcome"] for row in rows.values())
    lines = [
        f"# timm's Vision Transformers here, timm {timm.__version__}",
        "",
        f"{len(rows)} names ({', '.join(GLOBS)}), one block each, random weights, "
        "float32 on a CPU. Made by `python benchmarks/timm_zoo.py`.",
        "",
        ", ".join(f"{counts[kind]} {kind}" for kind in (MATCHED, REFUSED, OTHER, WRONG))
        + ".",
        "",
        f"Matched: logits (or, without a head, features) within {BAR:g} of timm's.",
        "",
    ]
    for kind in (WRONG, MATCHED, REFUSED, OTHER):
        names = sorted(name for name in rows if rows[name]["outcome"] == kind)
        if names:
            columns = ("difference", "deviation of logits", "pixels")
            head = columns if kind == MATCHED else ("what the error says",)
            lines += [f"## {kind[0].upper()}{kind[1:]}: {len(names)}", ""]
            lines += [f"| name | class | {' | '.join(head)} |"]
            lines += ["|---" * (len(head) + 2) + "|"]
            lines += [line_of(name, rows[name]) for name in names] + [""]
    lines += ["The classes that are other networks:", ""]
    lines += [f"- `{kind}`: {why}." for kind, why in NOT_PLAIN.items()] + [""]
    return "\n".join(lines)


def line_of(name: str, row: dict[str, Any]) -> str:
    """Returns the line of one name."""
    cells = [name, row["class"]]
    if row["outcome"] == MATCHED:
        size = "x".join(str(side) for side in row["image_size"])
        cells += [f"{row['difference']:.1e}", f"{row['deviation']:.2g}", size]
    else:
        cells.append(row["remark"].replace("|", "/"))
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Goes through the names; returns 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default="*")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    names = sorted({name for glob in GLOBS for name in timm.list_models(glob)})
    names = fnmatch.filter(names, args.names)
    rows: dict[str, dict[str, Any]] = {}
    if args.cache and args.cache.exists():
        stored = json.loads(args.cache.read_text())
        rows = {name: row for name, row in stored.items() if name in names}
    for name in names:
        if name in rows:
            continue
        rows[name] = compare(name)
        if args.cache:
            args.cache.write_text(json.dumps(rows, indent=1))
        difference = rows[name].get("difference", "")
        print(name, rows[name]["outcome"], difference, rows[name]["remark"], flush=True)
        jax.clear_caches()
        gc.collect()
    if args.table:
        args.table.write_text(table(rows))
    counts = Counter(row["outcome"] for row in rows.values())
    print(json.dumps(counts))
    return int(counts[WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main())
