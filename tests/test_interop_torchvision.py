"""torchvision's Vision Transformers: its logits, its names, and back."""

import numpy as np
import pytest
import torch_files

import vit_jax
from vit_jax import errors, models, tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files
from vit_jax.weights.formats import safetensors


def test_tables_and_images_are_resized_as_torchvision_does(tmp_path):
    """As the transforms of its weights for 224 pixels say."""
    files.write(weights_of(), tmp_path / "x.safetensors")
    loaded = vit_jax.load(tmp_path / "x.safetensors", heads=2, image_size=64)
    assert loaded.architecture.posemb_resample == "bicubic_corners"
    said = loaded.preprocessing
    assert (said.image_size, said.resize) == ((64, 64), round(256 * 64 / 224))
    assert (said.filter, said.rounding) == ("bilinear", "torchvision")


def weights_of(**options):
    arch = models.architecture(
        "B/16",
        **{"num_classes": 5, "image_size": 32, "width": 32, "depth": 2, "heads": 2}
        | {"mlp_width": 48, "gelu": "erf", "posemb_resample": "bicubic_corners"}
        | options,
    )
    rng = np.random.default_rng(0)
    leaves = {
        name: rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
    }
    return files.Weights(
        arch, tree.from_named(leaves), Preprocessing((32, 32)), "torchvision"
    )


def test_both_spellings_are_one_model_and_the_way_back_is_exact(tmp_path):
    weights = weights_of(pre_logits=24)
    files.write(weights, tmp_path / "x.safetensors")
    with safetensors.open(tmp_path / "x.safetensors") as tensors:
        state = {name: np.array(tensors.read(name)) for name in tensors}
    assert "encoder.layers.encoder_layer_1.mlp.3.weight" in state
    old = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    spelled = dict(state)
    for new, first in old.items():
        spelled = {name.replace(new, first): a for name, a in spelled.items()}
    assert set(spelled) != set(state)
    for names in (state, spelled):
        path = torch_files.save(tmp_path / "x.pth", names)
        with files.read(path, heads=2) as again:
            name = again.architecture.name
            assert again.architecture == weights.architecture.replace(name=name)
            for leaf, array in weights.leaves.items():
                assert np.array_equal(again.leaves.read(leaf), array)
            assert again.preprocessing.resize == round(256 * 32 / 224)  # a crop of 7/8
            assert again.preprocessing.filter == "bilinear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes=0 and"),
        ({"pool": "mean"}, "pool='mean'"),
        ({"registers": 2}, "has no name for"),
        ({"gelu": "tanh"}, "gelu='tanh'"),
    ],
)
def test_what_it_has_not_is_refused(tmp_path, options, message):
    with pytest.raises(errors.UserError, match=message):
        files.write(weights_of(**options), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
