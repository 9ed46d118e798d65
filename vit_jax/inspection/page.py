"""One HTML page of what an inspection found, which opens from the disk.

The page holds its style, its script and its numbers; it asks nothing of any network,
and its policy forbids it to. Bytes stand in it as base64 of zlib streams, one an image,
which the browser opens when the image is chosen.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

LIMIT = 4_900_000  # characters; what is not ASCII is escaped in the data
# Of the numbers from patch to patch, finest first: zlib makes of 15 levels what 4 bits
# a number take, whatever the numbers are.
LEVELS = (255, 127, 63, 31, 15)
_SCRIPTS = ("data.js", "draw.js", "plot.js", "page.js", "wire.js")
_DIGITS = 5  # of float numbers: the page shows three
_SMALL = 64  # pixels; smaller images are kept as they are, larger ones as JPEG
_QUALITY = 88


def render(payload: Mapping[str, Any], *, limit: int = LIMIT) -> str:
    """Returns the page as text.

    Args:
        payload: From `payload.payload`.
        limit: Characters of the page to keep to: where it would be larger, the numbers
            from patch to patch are kept at fewer levels, at fifteen at least.
    """
    page = ""
    for levels in LEVELS:
        page = _fill(packed(payload, levels))
        if len(page) <= limit:
            break
    return page


def packed(payload: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """Returns a payload as the JSON that the page reads.

    Args:
        payload: From `payload.payload`.
        levels: Of the numbers from patch to patch, 0 to `levels`.
    """
    shared: dict[str, np.ndarray] = {}
    positions, filters = payload["posemb"], payload["filters"]
    if positions is not None:
        shared["posemb"] = _coarse(_triangle(positions["similarity"]), levels)
        positions = {key: positions[key] for key in ("names", "what")}
    if filters is not None:
        shared["filters"] = filters["images"]
        filters = {"variance": _plain(filters["variance"]), "what": filters["what"]}
    images = [_packed_image(image, levels) for image in payload["images"]]
    heads = {image["arrays"]["patch"][1][1] for image in images} or {1}
    return {
        "levels": levels,
        "model": _plain(payload["model"]),
        "images": images,
        "patch_heads": heads.pop(),
        "detail_layers": _plain(payload["detail_layers"]),
        "distance": _plain(payload["distance"]),
        "distance_uniform": _plain(payload["distance_uniform"]),
        "posemb": positions,
        "filters": filters,
        "shared": _stream(shared),
        "notes": list(payload["notes"]),
    }


def _packed_image(image: Mapping[str, Any], levels: int) -> dict[str, Any]:
    arrays = {
        "readout": image["readout"],
        "readout_mean": image["readout_mean"],
        "rollout": image["rollout"],
        "patch": _coarse(image["patch"], levels),
        "similarity": _coarse(_triangle(image["similarity"]), levels),
    }
    numbers = {
        key: _plain(value)
        for key, value in image.items()
        if key not in arrays and key != "view"
    }
    return {**numbers, "view": _view(image["view"]), **_stream(arrays)}


def _stream(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One zlib stream of arrays of bytes, and where in it each begins."""
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = [at, list(array.shape)]
        at += array.size
    joined = b"".join(array.tobytes() for array in arrays.values())
    text = base64.b64encode(zlib.compress(joined, 6)).decode()
    return {"arrays": places, "bytes": text}


def _coarse(array: np.ndarray, levels: int) -> np.ndarray:
    return np.round(array * (levels / 255)).astype(np.uint8)


def _triangle(matrices: np.ndarray) -> np.ndarray:
    """The lower triangles, row by row, of symmetric matrices."""
    return matrices[..., *np.tril_indices(matrices.shape[-1])]


def _view(pixels: np.ndarray) -> str:
    """An image as a data URL."""
    kind = "PNG" if max(pixels.shape[:2]) < _SMALL else "JPEG"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=_QUALITY, optimize=True)
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}"


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy as JSON has them, rounded; None: not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def _fill(data: Mapping[str, Any]) -> str:
    """The page around its data."""
    model = data["model"]
    style, script = _asset("page.css"), "\n".join(map(_asset, _SCRIPTS))
    script = f'"use strict";\n{script}'
    # Nothing but these two may run or style; images are in the page.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    facts = f"{model['source']} · {model['parameters'] / 1e6:,.2f} M parameters"
    # "</script>" in a name would end the data, "<!--" change how it is read.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    parts = {
        "policy": policy,
        "title": html.escape(model["summary"]),
        "facts": html.escape(facts),
        "style": style,
        "script": script,
        "payload": text.replace("<", "\\u003c"),
    }
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _asset("page.html"))


def _asset(name: str) -> str:
    folder = importlib.resources.files("vit_jax.inspection") / "assets"
    return (folder / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
