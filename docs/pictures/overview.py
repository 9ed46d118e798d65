"""Draws overview.svg, what vit_jax does: an image to a class, and a run's loss.

`python docs/pictures/overview.py FOLDER` measures first: it trains 440 steps on the
bundled digits in FOLDER, looks into the model, and writes overview.json. Without a
folder it draws what that file has.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = HERE / "overview.json"
COMMAND = (
    *(sys.executable, "-m", "vit_jax", "train", "--config=quickstart"),
    *("--config.total=440 steps", "--config.log_every=10 steps"),
    *("--config.save_every=50 steps", "--config.eval_every="),
)
INK, SOFT, BLUE = "#12263a", "#5b6b7b", "#2f6f9f"


def losses(workdir: Path) -> list[tuple[int, float]]:
    """Returns the loss at each logged step of a run."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def measure(folder: Path) -> dict[str, Any]:
    """Trains, and looks into the model."""
    import vit_jax
    from vit_jax.data import catalog

    alone = folder / "alone"
    subprocess.run([*COMMAND, f"--workdir={alone}"], check=True)
    loaded = vit_jax.load(alone)
    image = catalog.open_source("digits", "test")[3]["image"]
    images = loaded.images(image)
    logits = np.asarray(loaded.model(images))[0]
    inside = loaded.model.intermediates(images)
    architecture = loaded.architecture
    flow = np.eye(architecture.tokens)
    for i in range(architecture.depth):
        attention = np.asarray(inside[f"attention/{i}"]).mean(axis=1)[0]
        flow = (0.5 * attention + 0.5 * np.eye(len(attention))) @ flow
    shares = np.exp(logits - logits.max())
    return {
        "image": np.asarray(image).reshape(8, 8, -1)[..., 0].tolist(),
        "names": list(loaded.label_names),
        "probabilities": [round(float(p), 6) for p in shares / shares.sum()],
        "rollout": np.round(flow[0, architecture.prefix :], 6).tolist(),
        "alone": losses(alone),
    }


def _grid(pixels: np.ndarray, x: float, y: float, size: float) -> list[str]:
    """Squares of one grey level each."""
    side = size / len(pixels)
    return [
        f'<rect x="{x + side * j:g}" y="{y + side * i:g}" width="{side:g}" '
        f'height="{side:g}" fill="rgb({v},{v},{v})"/>'
        for i, row in enumerate(pixels.tolist())
        for j, v in enumerate(row)
    ]


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{SOFT}" {style}>{words}</text>'


def _arrow(x: float) -> str:
    return f'<path d="M{x:g} 90 h26 m-7 -6 l8 6 l-8 6" fill="none" stroke="{SOFT}"/>'


def _curve(points: list[list[float]], style: str) -> str:
    most = max(loss for _, loss in points)
    last = points[-1][0]
    at = [f"{60 + 780 * s / last:.1f},{330 - 100 * v / most:.1f}" for s, v in points]
    return f'<polyline points="{" ".join(at)}" fill="none" {style}/>'


def picture(found: dict[str, Any]) -> str:
    """Returns the drawing."""
    pixels = np.array(found["image"])
    grey = (255 * pixels / pixels.max()).astype(int)
    seen = np.array(found["rollout"]).reshape(4, 4)
    lit = (grey * np.kron(0.25 + 0.75 * seen / seen.max(), np.ones((2, 2)))).astype(int)
    best = int(np.argmax(found["probabilities"]))
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 372" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        '<rect width="880" height="372" fill="#ffffff"/>',
        *_grid(grey, 20, 30, 120),
        _text(20, 170, "an image"),
        _arrow(150),
    ]
    for i in range(4):
        for j in range(4):
            part = grey[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            out += _grid(part, 190 + 32 * j, 26 + 32 * i, 26)
    out += [_text(190, 170, "16 patches"), _arrow(324)]
    for i in range(4):
        out.append(
            f'<rect x="{364 + 8 * i}" y="{30 + 6 * i}" width="96" height="100" rx="6" '
            f'fill="#e8f0f7" stroke="{BLUE}"/>'
        )
    out += [
        _text(404, 94, "attention"),
        _text(412, 112, "MLP"),
        _text(364, 170, "4 blocks"),
        _arrow(492),
    ]
    for k, (name, p) in enumerate(zip(found["names"], found["probabilities"])):
        fill = BLUE if k == best else "#b9c4ce"
        y = 30 + 12 * k
        out.append(
            f'<rect x="548" y="{y}" width="{2 + 80 * p:.1f}" height="9" fill="{fill}"/>'
        )
        out.append(_text(534, y + 9, name, 'font-size="11"'))
    share = f"{100 * found['probabilities'][best]:.1f} %"
    out += [
        _text(534, 170, f"class {found['names'][best]}: {share}"),
        *_grid(lit, 700, 30, 120),
        _text(700, 170, "where it looked"),
        _text(60, 214, "loss", f'font-weight="bold" style="fill:{INK}"'),
        f'<path d="M60 226 V330 H840" fill="none" stroke="{SOFT}"/>',
        _curve(found["alone"], f'stroke="{BLUE}" stroke-width="1.6"'),
        _text(60, 352, "step 0"),
        _text(790, 352, f"step {found['alone'][-1][0]}"),
    ]
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        DATA.write_text(json.dumps(measure(Path(sys.argv[1]))) + "\n")
    (HERE / "overview.svg").write_text(picture(json.loads(DATA.read_text())))
