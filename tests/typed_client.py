"""A program as users write it, for type checkers: `make types` reads it alone.

It uses all that the Python of README.md uses, and says which
types it expects.
"""

import zipfile
from pathlib import Path
from typing import Any, assert_type

import jax
import numpy as np
import optax
from flax import nnx
from jax import export
from jax.sharding import Mesh

import vit_jax
from configs import quickstart
from vit_jax import evaluate, experiment, models, predict, train
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.model import Model
from vit_jax.weights.loaded import Loaded


def look() -> Model:
    assert_type(vit_jax.__version__, str)
    assert_type(vit_jax.list_models("R50*"), list[str])
    assert_type(vit_jax.list_models("B/16", pretrained=True), list[str])
    model = vit_jax.create_model("B/16", num_classes=10, attention="dot_product")
    assert_type(model, Model)
    assert_type(model.architecture, models.Architecture)
    assert_type(model.architecture.image_size, tuple[int, int])
    assert_type(models.count_parameters(model.architecture), int)
    return vit_jax.create_model("B/16", pretrained="augreg_in21k")


def use() -> jax.Array:
    loaded = vit_jax.load("ViT-B_16.npz", image_size=384)
    assert_type(loaded, Loaded)
    assert_type(loaded.model, Model)
    assert_type(loaded.architecture, models.Architecture)
    assert_type(loaded.preprocessing, Preprocessing)
    assert_type(loaded.label_names, tuple[str, ...] | None)
    images = loaded.images(["cat.jpg", "dog.png"])
    features = loaded.model.features(images)
    assert_type(features, jax.Array)
    maps = loaded.model.features(images, layers=[-1])
    assert_type(maps, tuple[jax.Array, ...])
    assert_type(maps[0].shape, tuple[int, ...])
    inside = loaded.model.intermediates(images)
    assert_type(inside, dict[str, jax.Array])
    assert_type(inside["blocks/0"].mean(), jax.Array)
    assert_type(loaded.model.classify(features), jax.Array)
    logits = loaded.model(images)
    assert_type(logits, jax.Array)
    return logits


def images_of_any_kind(loaded: Loaded, pixels: np.ndarray, path: Path) -> jax.Array:
    one = loaded.images(path)
    several = loaded.images([path, "cat.jpg", path.read_bytes(), pixels])
    loaded.model.check_images(one)
    return loaded.model(one) + loaded.model(jax.numpy.asarray(several))


def dropout(model: Model, images: jax.Array) -> jax.Array:
    key = jax.random.key(0)
    model.train()
    logits = model(images, rngs=nnx.Rngs(dropout=key))
    model.eval()
    return logits + model(images, deterministic=True)


def addresses() -> list[Loaded]:
    return [
        vit_jax.load("gs://vit_models/imagenet21k/ViT-B_16.npz"),
        vit_jax.load("augreg:B/16,imagenet2012,384", image_size=(384, 512)),
        vit_jax.load("model.safetensors", heads=12, posemb_resample="corners"),
        vit_jax.load("dino_checkpoint.pth:teacher", grid=(2, 8)),
        vit_jax.load("augreg:B/16", channels=1),
        vit_jax.load(Path("base"), adapter="adapter"),
    ]


def train_by_hand() -> jax.Array:
    loaded = vit_jax.load("ViT-B_16.npz", num_classes=3, dropout=0.1)
    model, images = loaded.model, loaded.images(["cat.jpg", "dog.png"])
    labels = jax.numpy.array([0, 1])
    trained = nnx.All(nnx.Param, nnx.PathContains("head"))
    optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=trained)

    @nnx.jit
    def step(
        model: Model,
        optimizer: nnx.Optimizer[Model],
        images: jax.Array | np.ndarray,
        labels: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        def loss(model: Model) -> jax.Array:
            logits = model(images, deterministic=False, rngs=nnx.Rngs(dropout=key))
            assert_type(logits, jax.Array)
            errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jax.numpy.mean(errors)

        wrt = nnx.DiffState(0, trained)
        value, gradients = nnx.value_and_grad(loss, argnums=wrt)(model)
        optimizer.update(model, gradients)
        return jax.numpy.asarray(value)

    for number in range(3):
        step(model, optimizer, images, labels, jax.random.key(number))

    assert isinstance(model, models.VisionTransformer)
    tokens = model.encode(model.embed(images))
    assert_type(tokens, jax.Array)
    assert_type(model.architecture, models.VitArchitecture)
    patches = tokens[:, model.architecture.prefix :]

    names = ["cat", "dog", "owl"]
    saved = vit_jax.save(
        model, "pets", preprocessing=loaded.preprocessing, label_names=names
    )
    assert_type(saved, Path)
    return vit_jax.load(saved).model(images) + patches.mean()


def train_on(images: list[dict[str, Any]]) -> dict[str, float | None]:
    config = quickstart.get_config()
    mesh = experiment.make_mesh(config)
    assert_type(mesh, Mesh)
    source = {"train": images, "test": images}
    figures = train.run(config, "workdirs/mine", mesh, source=source)
    assert_type(figures, dict[str, float | None])
    return train.run(config, Path("workdirs/mine"), mesh)


def assembled() -> models.Architecture:
    config = quickstart.get_config()
    run = experiment.assemble(config, experiment.make_mesh(config))
    assert_type(run, experiment.Experiment)
    assert_type(run.durations.total, int)
    assert_type(run.preprocessing, Preprocessing)
    return run.architecture


def measured() -> list[dict[str, Any]]:
    figures = evaluate.run("workdirs/cifar10", "cifar10", split="test", shots=(1, 5))
    assert_type(figures, dict[str, Any])
    return predict.run("workdirs/cifar10", ["cat.jpg", "dog.png"], top_k=1)


def exported(images: np.ndarray) -> Any:
    written = vit_jax.export("pets", "pets.stablehlo", format="stablehlo")
    assert_type(written, dict[str, Any])
    vit_jax.export(vit_jax.load("pets"), Path("pets.onnx"), format="onnx")
    program = export.deserialize(bytearray(Path("pets.stablehlo").read_bytes()))
    labels = zipfile.ZipFile("pets.stablehlo").read("labels.txt").decode().splitlines()
    # jax says nothing of the types here.
    found: Any = program.call(images)
    best = found["probabilities"].argmax(-1)
    return [labels[k] for k in best]
