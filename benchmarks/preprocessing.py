"""Pixels against the reference preprocessors: transformers, timm and torchvision.

    python -m benchmarks.preprocessing [--write] [--golden]

Every configuration is a file as those codes read it, each image a file in its own
format. The reference opens it with Pillow, turns it as its EXIF says, converts it to
RGB and prepares it as its own code does; ours is what `loaded.images` gives. A cell is
the largest difference in grey levels (of 255, before normalisation) and the difference
of the means in 0..1; the bars are 1 level and 1e-3.
transformers has two backends, Pillow and torchvision on uint8 tensors; its files say by
the name of the class ("...Fast") which one they are for, and both are measured against
their own. Beside them stands what transformers 5 makes of a file without "Fast" where
torchvision is installed.

`--write` replaces
`benchmarks/preprocessing.md`, `--golden` the small matrix that the tests read without
torch. Prints one line of JSON.
"""

import argparse
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights.dialects import processors, timm_data

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden" / "preprocessing.npz"
LEVELS, MEAN = 1.0, 1e-3
# Of float32 arithmetic on both sides.
SLACK = 2e-3
SQUARE = (0.5, 0.5, 0.5)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HF_IMAGENET = {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]}


class Case(NamedTuple):
    """A configuration, and the size of its model's images."""

    code: str  # key of CODES
    name: str
    said: dict[str, Any]
    size: tuple[int, int]


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Slopes, hard edges, fine lines and noise: uint8 [h, w, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    base = np.stack([u, v, 1 - (u + v) / 2], -1) * 200 + 20
    base += 25 * np.sin(40 * u * v)[..., None] * (1, -1, 0.5)
    base[(np.hypot(u - 0.4, v - 0.6) < 0.25)] = (250, 30, 60)
    base[(np.abs(u - v) < 0.02)] = 255
    base[(x % 16 < 1) & (u > 0.6)] = 0
    base += rng.normal(0, 6, base.shape)
    return base.clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    """Files by name."""
    photo = Image.fromarray(scene(375, 500))
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = Image.fromarray(scene(120, 161, 3)).convert("RGBA")
    alpha.putalpha(Image.fromarray(scene(120, 161, 4)[..., 0]))
    return {
        "photo.jpg": encoded(photo, "JPEG", quality=90),
        "turned.jpg": encoded(
            *(Image.fromarray(scene(180, 241, 1)), "JPEG"), exif=turned, quality=92
        ),
        "grey.png": encoded(Image.fromarray(scene(97, 130, 2)[..., 1]), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "palette.png": encoded(
            Image.fromarray(scene(133, 99, 5)).convert("P", palette=Image.ADAPTIVE),
            "PNG",
        ),
        "cmyk.jpg": encoded(
            Image.fromarray(scene(140, 151, 6)).convert("CMYK"), "JPEG", quality=95
        ),
        "thin.png": encoded(Image.fromarray(scene(13, 900, 7)), "PNG"),
        "tiny.png": encoded(Image.fromarray(scene(5, 7, 8)), "PNG"),
        "large.jpg": encoded(Image.fromarray(scene(1203, 1605, 9)), "JPEG", quality=85),
    }


def _sides(height: int, width: int) -> dict[str, int]:
    return {"height": height, "width": width}


def transformers_cases() -> Iterator[Case]:
    """Files of its processors, their defaults, old spellings and every field."""

    def case(name: str, kind: str, of: tuple[int, int], **said: Any) -> Case:
        named = (
            {} if "feature_extractor_type" in said else {"image_processor_type": kind}
        )
        return Case("transformers", name, named | said, of)

    vit, deit, bit = "ViTImageProcessor", "DeiTImageProcessor", "BitImageProcessor"
    clip, siglip, beit = (
        "CLIPImageProcessor",
        "SiglipImageProcessor",
        "BeitImageProcessor",
    )
    square = _sides(96, 96)
    yield case("ViT, its defaults", vit, (224, 224))
    for number, filter in enumerate(
        ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    ):
        yield case(f"ViT, {filter}", vit, (96, 96), size=square, resample=number)
        crop = {"size": {"shortest_edge": 110}, "crop_size": square}
        yield case(f"Bit, {filter}", bit, (96, 96), resample=number, **crop)
    yield case("ViT, a number", vit, (111, 111), size=111)
    yield case("ViT, a list", vit, (60, 100), size=[60, 100], resample=3)
    yield case("ViT, not square", vit, (144, 80), size=_sides(144, 80))
    yield case(
        *("ViT feature extractor", vit, (96, 96)),
        **{"feature_extractor_type": "ViTFeatureExtractor", "size": 96, "resample": 2},
    )
    for name, said in {
        "rescale_factor 1/127.5": {
            **{"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3},
            "image_std": [1.0] * 3,
        },
        "not rescaled": {
            **{"do_rescale": False, "image_mean": [123.0, 117.0, 104.0]},
            "image_std": [58.0, 57.0, 57.5],
        },
        "not normalised": {"do_normalize": False},
        "neither": {"do_rescale": False, "do_normalize": False},
        "nulls": {"do_normalize": None, "image_mean": None, "do_pad": None},
        "one null": {"do_rescale": None, "image_mean": 127.5, "image_std": 60.0},
        "ImageNet's mean": HF_IMAGENET,
    }.items():
        yield case(f"ViT, {name}", vit, (96, 96), size=square, **said)
    yield case(
        *("ViT, cropped", vit, (80, 80)),
        **{"size": square, "do_center_crop": True, "crop_size": 80},
    )
    yield case(
        *("ViT, cropped only", vit, (90, 77)),
        **{"do_resize": False, "do_center_crop": True, "crop_size": _sides(90, 77)},
    )
    yield case("DeiT, its defaults", deit, (224, 224))
    yield case("DeiT, numbers", deit, (84, 84), size=96, crop_size=84, **HF_IMAGENET)
    yield case("DeiT, odd", deit, (84, 84), size=97, crop_size=84)
    yield case("DeiT, padded", deit, (96, 96), size=80, crop_size=96)
    yield case("DeiT, padded by odd", deit, (97, 100), size=80, crop_size=[97, 100])
    yield case(
        *("DeiT, old", deit, (96, 96)),
        **{"feature_extractor_type": "DeiTFeatureExtractor"},
        **{"size": 110, "crop_size": 96, "resample": 3},
        **HF_IMAGENET,
    )
    yield from (
        case(f"Bit, {short} to {side}", bit, (side, side), **said, **HF_IMAGENET)
        for short, side in ((256, 224), (97, 84), (98, 97), (84, 84), (60, 84))
        for said in (
            {"size": {"shortest_edge": short}, "crop_size": _sides(side, side)},
        )
    )
    yield case("Bit, its defaults", bit, (224, 224))
    yield case("Bit, a number", bit, (80, 80), size=93, crop_size=80)
    yield case(
        "Bit, not square",
        bit,
        (70, 110),
        size={"shortest_edge": 120},
        crop_size=[70, 110],
    )
    limited = {"shortest_edge": 90, "longest_edge": 120}
    yield case("Bit, longest edge", bit, (84, 84), size=limited, crop_size=84)
    inside = {"max_height": 100, "max_width": 90}
    yield case("Bit, largest", bit, (84, 84), size=inside, crop_size=84)
    yield case("CLIP, its defaults", clip, (224, 224))
    yield case("CLIP, numbers", clip, (112, 112), size=112, crop_size=112)
    yield case("SigLIP, its defaults", siglip, (224, 224))
    yield case("SigLIP, 14 and 128", siglip, (128, 128), size=_sides(128, 128))
    yield case("BEiT, its defaults", beit, (224, 224))


def timm_cases() -> Iterator[Case]:
    """`pretrained_cfg`s: crops, modes, filters, shapes."""

    def case(name: str, size: tuple[int, int], **said: Any) -> Case:
        return Case("timm", name, {"input_size": [3, *size]} | said, size)

    half = {"mean": SQUARE, "std": SQUARE}
    for mode in ("center", "squash", "border"):
        for crop in (0.875, 0.9, 1.0, 1.15):
            name = f"{mode}, {crop}"
            yield case(name, (96, 96), crop_pct=crop, crop_mode=mode, **half)
        for crop in (0.9, 1.0):
            name = f"{mode}, {crop}, not square"
            yield case(name, (48, 112), crop_pct=crop, crop_mode=mode, **IMAGENET)
    for filter in ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"):
        yield case(filter, (80, 80), crop_pct=0.95, interpolation=filter, **half)
    yield case("nothing said", (224, 224))
    yield case("odd sides", (97, 97), crop_pct=0.9)
    yield case("odd sides, not square", (61, 97), crop_pct=0.9)
    yield case(
        *("the test's size is not used", (64, 64)),
        **{"test_input_size": [3, 80, 80], "test_crop_pct": 1.0, "crop_pct": 0.9},
    )


def torchvision_cases() -> Iterator[Case]:
    """`Resize` and `CenterCrop` as its reference scripts compose them."""
    for resize, crop in (
        (110, (96, 96)),
        (97, (84, 84)),
        (60, (84, 84)),
        (91, (90, 41)),
    ):
        said = {"resize": resize, "filter": "bilinear"}
        yield Case("torchvision", f"{resize} to {crop[0]}x{crop[1]}", said, crop)
    said = {"resize": [70, 101], "filter": "bicubic"}
    yield Case("torchvision", "70x101 to 60x80", said, (60, 80))


def fast_cases() -> Iterator[Case]:
    """Those of transformers for its other backend, without what that cannot do."""
    for case in transformers_cases():
        kind = case.said.get("image_processor_type", "Fast")
        if not kind.endswith("Fast") and case.said.get("resample") not in (4, 5):
            said = case.said | {"image_processor_type": f"{kind}Fast"}
            yield Case("transformers Fast", case.name, said, case.size)


def cases() -> list[Case]:
    """All of them."""
    return [
        *(*transformers_cases(), *fast_cases()),
        *(*timm_cases(), *torchvision_cases()),
    ]


def _rgb(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def _transformers(case: Case, backend: str) -> Callable[[bytes], np.ndarray]:
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preprocessor_config.json"
        path.write_text(json.dumps(case.said))
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, backend=backend
        )
    return lambda data: processor(_rgb(data), return_tensors="np")["pixel_values"][
        0
    ].transpose(1, 2, 0)


def _timm(case: Case, backend: str) -> Callable[[bytes], np.ndarray]:
    import timm

    said = timm.data.resolve_data_config(pretrained_cfg=case.said)
    transform = timm.data.create_transform(**said)
    return lambda data: transform(_rgb(data)).numpy().transpose(1, 2, 0)


def _torchvision(case: Case, backend: str) -> Callable[[bytes], np.ndarray]:
    from torchvision import transforms

    mode = transforms.InterpolationMode[case.said["filter"].upper()]
    steps = [
        transforms.Resize(case.said["resize"], mode),
        transforms.CenterCrop(case.size),
    ]
    steps += [transforms.ToTensor(), transforms.Normalize(SQUARE, SQUARE)]
    transform = transforms.Compose(steps)
    return lambda data: transform(_rgb(data)).numpy().transpose(1, 2, 0)


def _composed(case: Case) -> Preprocessing:
    both = isinstance(case.said["resize"], list)
    name = "resize_crop" if both else "resize_small_crop"
    return Preprocessing(case.size, name, rounding="torchvision", **case.said)


class Code(NamedTuple):
    """How a reference and ours come from a case."""

    reference: Callable[[Case, str], Callable[[bytes], np.ndarray]]
    backends: tuple[str, ...]  # the first counts
    ours: Callable[[Case], Preprocessing]


def _processed(case: Case) -> Preprocessing:
    return processors.read(case.said, "ViT", case.size)


CODES = {
    "transformers": Code(_transformers, ("pil", "torchvision"), _processed),
    "transformers Fast": Code(_transformers, ("torchvision",), _processed),
    "timm": Code(_timm, ("pil",), lambda case: timm_data.read(case.said, case.size)),
    "torchvision": Code(_torchvision, ("pil",), _composed),
}


def ours(prepared: Preprocessing, data: bytes) -> np.ndarray:
    """As `Loaded.images`: float32 [h, w, 3]."""
    pixels = prepared.eval_transform()(data)
    mean, std = np.float32(prepared.mean), np.float32(prepared.std)
    return (pixels - mean[None, None]) / std[None, None]


def measure(case: Case, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns {backend: {image: (levels, mean)}}, or why a backend cannot do it."""
    code = CODES[case.code]
    prepared = code.ours(case)
    std = np.float64(prepared.std)[None, None]
    results: dict[str, Any] = {}
    for backend in code.backends:
        reference = code.reference(case, backend)
        try:
            wanted = {name: reference(data) for name, data in files.items()}
        except (NotImplementedError, ValueError) as error:
            results[backend] = f"{type(error).__name__}: {str(error)[:60]}"
            continue
        cells = {}
        for name, data in files.items():
            got = ours(prepared, data)
            if got.shape != wanted[name].shape:
                cells[name] = (float("inf"), float("inf"))
                continue
            off = (got.astype(np.float64) - wanted[name]) * std
            cells[name] = float(np.abs(off).max()), float(abs(off.mean()) / 255)
        results[backend] = cells
    return results


def is_within(cell: tuple[float, float]) -> bool:
    """Whether a cell is within both bars."""
    return cell[0] <= LEVELS + SLACK and cell[1] <= MEAN


Rows = list[tuple[Case, dict[str, Any]]]


def table(rows: Rows, names: list[str]) -> list[str]:
    """Markdown: a row a configuration, and the worst cell of the other backend."""
    lines = ["| code | configuration | " + " | ".join(names) + " | mean | beside |"]
    lines.append("|---|---|" + "---|" * (len(names) + 2))
    for case, results in rows:
        cells, *others = results.values()
        levels = [f"{cells[name][0]:.2g}" for name in names]
        shown = [
            text if is_within(cells[name]) else f"**{text}**"
            for name, text in zip(names, levels)
        ]
        mean = max(cell[1] for cell in cells.values())
        beside = [
            "none" if isinstance(o, str) else f"{max(c[0] for c in o.values()):.2g}"
            for o in others
        ]
        columns = [case.code, case.name, *shown, f"{mean:.0e}", *(beside or [""])]
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def summary(rows: Rows) -> dict[str, Any]:
    """Counts of cells, and those missed by name."""
    missed: dict[bool, list[str]] = {True: [], False: []}
    cells = beside = 0
    for case, results in rows:
        for number, values in enumerate(results.values()):
            if isinstance(values, str):
                continue
            cells += len(values) * (number == 0)
            beside += len(values) * (number > 0)
            missed[number == 0] += [
                f"{case.code} {case.name}, {name}: {cell[0]:.2g}, {cell[1]:.0e}"
                for name, cell in values.items()
                if not is_within(cell)
            ]
    return {
        **{"configurations": len(rows), "cells": cells, "missed": missed[True]},
        **{"beside": beside, "missed_beside": missed[False]},
    }


def report(rows: Rows, names: list[str], *, write: bool) -> None:
    """Prints the table and its summary, and writes them."""
    lines, figures = table(rows, names), summary(rows)
    print("\n".join(lines))
    print(json.dumps(figures))
    if not write:
        return
    import timm
    import torch
    import torchvision
    import transformers

    modules = (transformers, timm, torchvision, torch)
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in modules)
    missed = "".join(f"- {line}\n" for line in figures["missed"]) or "None.\n"
    beside = "".join(f"- {line}\n" for line in figures["missed_beside"]) or "None.\n"
    said = "\n\n".join(__doc__.strip().split("\n\n")[2:4])
    text = (
        "# Pixels against the reference preprocessors\n\n"
        "`python -m benchmarks.preprocessing --write` "
        f"({versions}, Pillow {Image.__version__})\n\n{said}\n\n"
        f"{figures['configurations']} configurations, {figures['cells']} cells; missed "
        f"{len(figures['missed'])}. Beside: {figures['beside']} cells, over the bar: "
        f"{len(figures['missed_beside'])}.\n\n"
        + "\n".join(lines)
        + f"\n\n## Missed\n\n{missed}\n## Over the bar beside\n\n{beside}"
    )
    (HERE / "preprocessing.md").write_text(text)


def small_images() -> dict[str, bytes]:
    """Of the golden matrix: an odd JPEG that is turned, a thin and a tiny one."""
    turned = Image.Exif()
    turned[0x0112] = 8
    return {
        "turned.jpg": encoded(
            Image.fromarray(scene(45, 62, 1)), "JPEG", exif=turned, quality=95
        ),
        "grey.png": encoded(Image.fromarray(scene(31, 40, 2)[..., 1]), "PNG"),
        "tiny.png": encoded(Image.fromarray(scene(5, 7, 8)), "PNG"),
    }


def _smaller(case: Case) -> Case:
    """The same configuration at about a twelfth of its pixels a side."""

    def less(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: less(side) for key, side in value.items()}
        if isinstance(value, list | tuple):
            return [less(side) if side > 3 else side for side in value]
        return -(-value // 12)

    keys = ("size", "crop_size", "input_size", "resize")
    said = {k: less(v) if k in keys else v for k, v in case.said.items()}
    height, width = case.size
    return case._replace(said=said, size=(-(-height // 12), -(-width // 12)))


def golden(path: Path) -> int:
    """Writes the small matrix; returns the number of its cells."""
    files = small_images()
    arrays: dict[str, np.ndarray] = {
        f"image/{name}": np.frombuffer(data, np.uint8) for name, data in files.items()
    }
    described = []
    for number, case in enumerate(map(_smaller, cases())):
        if "default" in case.name or "nothing said" in case.name:
            continue  # of 224 pixels
        if case.code == "transformers Fast" and number % 3:
            continue  # a third of them will do
        reference = CODES[case.code].reference(case, CODES[case.code].backends[0])
        found = [reference(data) for data in files.values()]
        arrays[f"pixels/{len(described)}"] = np.stack(found).astype(np.float16)
        described.append([*case[:3], list(case.size)])
    arrays["cases"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    np.savez_compressed(path, **arrays)
    return len(described) * len(files)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--golden", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.golden:
        print(json.dumps({"golden": str(GOLDEN), "cells": golden(GOLDEN)}))
        return
    files = images()
    rows = [(case, measure(case, files)) for case in cases()]
    report(rows, list(files), write=args.write)


if __name__ == "__main__":
    main()
