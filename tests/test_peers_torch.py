"""torch and torchvision themselves: their files, models and folders of images."""

import importlib.util

import numpy as np
import pytest
import test_interop_torchfile as torchfile_tests
import torch_files
from cases import CASES
from test_interop_torchvision import weights_of
from torch_peers import images_of, model_of, randomized

import vit_jax
from vit_jax.data import folder
from vit_jax.weights import files
from vit_jax.weights.formats import safetensors, torchfile

if not importlib.util.find_spec("torch"):
    pytest.skip("torch is not installed", allow_module_level=True)

NESTED = CASES / "nested_images"
SIZES = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2}
SIZES |= {"hidden_dim": 32, "mlp_dim": 48, "num_classes": 5}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_reads_is_what_we_read(tmp_path, legacy, protocol):
    import torch

    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5, 7, 3, generator=generator)
    state = {
        "view": table.permute(2, 0, 1)[1:, :, ::3],
        "brain": table.bfloat16(),
        "tied": table,
        "module": torch.nn.LayerNorm(4).state_dict(),
    }
    path = tmp_path / "x.bin"
    options = {"_use_new_zipfile_serialization": not legacy}
    torch.save(state, path, pickle_protocol=protocol, **options)
    # Its safe reader knows the first protocol only.
    there = torch.load(path, weights_only=protocol == 2)
    with torchfile.open(path) as tensors:
        for name in ("view", "brain", "tied"):
            wanted = there[name].float().numpy()
            assert np.array_equal(np.asarray(tensors.read(name), np.float32), wanted)
        ones = tensors.read("module/weight")
        assert np.array_equal(ones, there["module"]["weight"].numpy())


def test_the_writer_of_these_tests_is_read_by_torch(tmp_path):
    import torch

    arrays = {
        n: np.array(torchfile_tests.EXPECTED[n]) for n in ("plain", "half", "scalar")
    }
    path = torch_files.save(tmp_path / "x.pth", {"a": arrays})
    for name, tensor in torch.load(path, weights_only=True)["a"].items():
        assert np.array_equal(tensor.numpy(), arrays[name])
    with torchfile.open(path) as tensors:
        torchfile_tests.check_equal(tensors, arrays, "a/")


@pytest.mark.parametrize("representation", [None, 24])
def test_logits_are_torchvisions(tmp_path, representation):
    import torch

    vision = pytest.importorskip("torchvision").models.vision_transformer
    peer = vision.VisionTransformer(**SIZES, representation_size=representation)
    peer = randomized(peer).eval()
    torch.save({"model": peer.state_dict()}, tmp_path / "x.pth")
    with files.read(tmp_path / "x.pth", heads=2) as weights:
        arch = weights.architecture
        assert weights.dialect == "torchvision"
        assert arch.pre_logits == (representation or False)
        images = images_of(arch)
        with torch.no_grad():
            expected = peer(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
        found = model_of(weights)(images)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        files.write(weights, tmp_path / "x.safetensors")
    with safetensors.open(tmp_path / "x.safetensors") as back:
        state = peer.state_dict()
        assert set(back) == set(state)
        assert all(np.array_equal(back.read(n), state[n].numpy()) for n in state)


def test_tables_are_resized_as_torchvision_does(tmp_path):
    """Its `interpolate_embeddings`."""
    import torch

    vision = pytest.importorskip("torchvision").models.vision_transformer
    files.write(weights_of(), tmp_path / "x.safetensors")
    loaded = vit_jax.load(tmp_path / "x.safetensors", heads=2, image_size=64)
    with files.read(tmp_path / "x.safetensors", heads=2) as before:
        table = torch.from_numpy(before.leaves.read("posemb").copy())
    key = "encoder.pos_embedding"
    resized = vision.interpolate_embeddings(64, 16, {key: table})[key].numpy()
    np.testing.assert_allclose(loaded.params["posemb"], resized, atol=1e-5)


def test_classes_and_files_are_those_of_torchvision():
    datasets = pytest.importorskip("torchvision.datasets")
    theirs = datasets.ImageFolder(str(NESTED / "train"))
    ours = folder.Folder(NESTED / "train")
    assert list(ours.class_names) == theirs.classes
    assert ours.counts() == {"train": 6}
    assert sorted(ours.file("train", at) for at in range(6)) == [
        (path, theirs.classes[label]) for path, label in sorted(theirs.samples)
    ]
