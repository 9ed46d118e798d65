"""Small stand-ins for what readers of the documentation have: images and weights."""

import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import vit_jax
from vit_jax import models
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files

SHADES = ((200, 60, 60), (60, 160, 60), (60, 60, 200), (200, 180, 60))


def photographs(folder, classes, count, size=(48, 64)):
    """`FOLDER/CLASS/N.jpg`, each class around a colour of its own."""
    rng = np.random.default_rng(0)
    for name, shade in zip(classes, SHADES):
        for number in range(count):
            pixels = rng.normal(shade, 40, (*size, 3)).clip(0, 255)
            path = Path(folder, name, f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def weights(path, dialect, *, name="mu/16", num_classes=5, **options):
    """Random weights of a one-block ViT, in files of another code."""
    options = {"width": 24, "heads": 12, "depth": 1, "image_size": 32} | options
    architecture = models.architecture(name, num_classes=num_classes, **options)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        models.abstract(architecture)[1],
    )
    prepared = Preprocessing(architecture.image_size)
    files.write(files.Weights(architecture, params, prepared, dialect), path, dialect)


def checkpoint(path, names, *, depth=2, image_size=32, **options):
    """A checkpoint of ours with names of classes."""
    model = vit_jax.create_model(
        "mu/16", num_classes=len(names), image_size=image_size, depth=depth, **options
    )
    model.head.kernel[...] = jax.random.normal(
        jax.random.key(0), model.head.kernel.shape
    )
    return vit_jax.save(model, path, label_names=list(names))


def lines(path):
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
