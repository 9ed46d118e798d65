"""Models in Hugging Face's own cache: found without its package and without network."""

import hashlib
import json
import os
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_files
from test_interop_timm import random_weights

import vit_jax
from vit_jax import errors
from vit_jax.weights import files, pretrained, remote
from vit_jax.weights.remote import hubcache

COMMIT, OTHER = "a" * 40, "b" * 40
NAME = "google/vit-base-patch16-224"
TINY = {"image_size": 8, "depth": 1, "gelu": "erf", "norm_epsilon": 1e-12}


class Cache:
    """A cache as huggingface_hub makes it."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, repository, contents, commit=COMMIT, refs=("main",), link=True):
        """Adds files by name; without `link` as copies, as on some file systems."""
        home = self.folder / f"models--{repository.replace('/', '--')}"
        snapshot = home / "snapshots" / commit
        for name, content in contents.items():
            path = snapshot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not link:
                path.write_bytes(content)
                continue
            blob = home / "blobs" / hashlib.sha256(content).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(content)
            path.symlink_to(os.path.relpath(blob, path.parent))
        for ref in refs:
            path = home / "refs" / ref
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(commit)
        return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a user without network; who asks for it fails."""

    def asked(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", asked)
    monkeypatch.setattr("socket.getaddrinfo", asked)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "ours"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return Cache(tmp_path / "home" / "hub")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The files of a small ViT of transformers, by name."""
    folder = tmp_path_factory.mktemp("model")
    files.write(random_weights("mu/4", "hf_vit", **TINY), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shards(model):
    """The same with the weights in three files and an index."""
    tensors = safetensors.numpy.load(model["model.safetensors"])
    names = [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    weight_map = {name: names[i % 3] for i, name in enumerate(tensors)}
    contents = {name: model[name] for name in model if name != "model.safetensors"}
    for file in names:
        held = {n: tensors[n] for n, where in weight_map.items() if where == file}
        contents[file] = safetensors.numpy.save(held)
    index = {"metadata": {}, "weight_map": weight_map}
    contents["model.safetensors.index.json"] = json.dumps(index).encode()
    return contents


def same(loaded, model):
    tensors = safetensors.numpy.load(model["model.safetensors"])
    kernel = tensors["classifier.weight"].T
    return np.array_equal(np.asarray(loaded.params["head"]["kernel"]), kernel)


def refused(path):
    with pytest.raises(errors.UserError) as caught:
        vit_jax.load(path)
    assert len(str(caught.value).splitlines()) <= 10
    return str(caught.value)


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("package", [True, False])
def test_a_cached_model_is_found_offline(cache, model, monkeypatch, link, package):
    if not package:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    cache.add(NAME, model, link=link)
    loaded = vit_jax.load(f"hf://{NAME}")
    assert loaded.dialect == "hf_vit" and same(loaded, model)
    images = np.zeros((1, 8, 8, 3), np.float32)
    assert jnp.isfinite(loaded.model(images)).all()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "x/cache"}, "x/cache"),
        ({"HUGGINGFACE_HUB_CACHE": "x/old"}, "x/old"),
        ({"HF_HOME": "x/home"}, "x/home/hub"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "x"}, "x/huggingface/hub"),
        (
            {"HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": "x"},
            "x/.cache/huggingface/hub",
        ),
        ({"HF_HUB_CACHE": "$HOME/c", "HOME": "x"}, "x/c"),
    ],
)
def test_the_cache_is_where_its_package_has_it(
    cache, model, tmp_path, monkeypatch, variables, folder
):
    for name, value in variables.items():
        value = value.replace("x", str(tmp_path / "x"), 1) if value else ""
        monkeypatch.setenv(name, value)
    assert hubcache.root() == tmp_path / folder
    Cache(tmp_path / folder).add(NAME, model)
    assert same(vit_jax.load(f"hf://{NAME}"), model)


def test_branches_tags_and_commits_are_found(cache, model):
    later = dict(model)
    tensors = safetensors.numpy.load(model["model.safetensors"])
    tensors["classifier.weight"] = tensors["classifier.weight"] * 2
    later["model.safetensors"] = safetensors.numpy.save(tensors)
    cache.add(NAME, model, commit=COMMIT, refs=("v1", "refs/pr/3"))
    cache.add(NAME, later, commit=OTHER)
    for revision in ("v1", "refs%2Fpr%2F3", COMMIT):
        assert same(vit_jax.load(f"hf://{NAME}@{revision}"), model)
    for path in (f"hf://{NAME}", f"hf://{NAME}@main", f"hf://{NAME}@{OTHER}"):
        assert same(vit_jax.load(path), later)
    file = f"hf://{NAME}@v1/model.safetensors"
    assert same(vit_jax.load(file), model)
    message = refused(f"hf://{NAME}@v2")
    assert "without the revision 'v2'" in message and "v1" in message


def test_files_in_several_parts_are_read_whole(cache, shards, model):
    cache.add(NAME, shards)
    assert same(vit_jax.load(f"hf://{NAME}"), model)


def test_a_file_of_torch_alone_is_read(cache, model, tmp_path):
    tensors = safetensors.numpy.load(model["model.safetensors"])
    torch_files.save(tmp_path / "a.pth", tensors)
    contents = {name: model[name] for name in model if name != "model.safetensors"}
    contents["pytorch_model.bin"] = (tmp_path / "a.pth").read_bytes()
    cache.add(NAME, contents)
    assert same(vit_jax.load(f"hf://{NAME}"), model)


def test_what_is_there_only_in_part_is_one_error(cache, shards, model):
    snapshot = cache.add(NAME, shards)
    part = snapshot / "model-00002-of-00003.safetensors"
    blob = part.resolve()
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))  # as while it comes
    message = refused(f"hf://{NAME}")
    assert "only in part" in message and part.name in message
    assert "HF_HUB_OFFLINE" in message and "1 of the files" in message
    shutil.rmtree(snapshot)
    snapshot = cache.add(NAME, {"config.json": model["config.json"]})
    assert "without model.safetensors" in refused(f"hf://{NAME}")
    whole = model["model.safetensors"]
    cache.add(NAME, {"model.safetensors": whole[: len(whole) // 2]})  # a bad copy
    assert "not copied to its end" in refused(f"hf://{NAME}")


def test_an_index_that_leads_elsewhere_is_refused(cache, shards):
    index = json.loads(shards["model.safetensors.index.json"])
    index["weight_map"]["classifier.bias"] = "../../../secret.safetensors"
    bad = shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    cache.add(NAME, bad)
    assert "no .safetensors file beside it" in " ".join(refused(f"hf://{NAME}").split())


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_asked(cache, monkeypatch, variable):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv(variable, "true")
    message = refused(f"hf://{NAME}")
    assert f"{variable} forbids" in message and str(cache.folder) in message


def test_online_a_complete_model_asks_nothing_either(cache, model, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    complete = model | {"processor_config.json": b"{}"}
    cache.add(NAME, complete)
    assert same(vit_jax.load(f"hf://{NAME}"), model)
    cache.add("timm/a.b", model)  # of which config.json says all
    assert remote.fetch("hf://timm/a.b").name == "model.safetensors"


def test_descriptions_that_may_be_missing_are_told(cache, model, caplog, monkeypatch):
    """What else a repository has nobody may have asked for."""
    held = {name: model[name] for name in ("model.safetensors", "config.json")}
    snapshot = cache.add(NAME, held)
    assert same(vit_jax.load(f"hf://{NAME}"), model)
    assert "without preprocessor_config.json" in caplog.text
    assert "HF_HUB_OFFLINE" in caplog.text
    caplog.clear()
    for name in ("preprocessor_config.json", "processor_config.json"):
        lacks = snapshot.parents[1] / ".no_exist" / COMMIT / name
        lacks.parent.mkdir(parents=True, exist_ok=True)
        lacks.touch()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert same(vit_jax.load(f"hf://{NAME}"), model) and not caplog.text


def test_a_model_kept_by_an_earlier_version_is_found(cache, model, tmp_path):
    Cache(tmp_path / "ours" / "hub").add(NAME, model)
    assert same(vit_jax.load(f"hf://{NAME}"), model)


def test_a_digest_is_checked_and_nothing_of_others_removed(cache, model):
    snapshot = cache.add(NAME, model)
    good = hashlib.sha256(model["model.safetensors"]).hexdigest()
    assert same(vit_jax.load(f"hf://{NAME}#sha256={good}"), model)
    assert "not what was asked for" in refused(f"hf://{NAME}#sha256={'0' * 64}")
    assert (snapshot / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "path",
    [
        "hf://org/../name",
        "hf://../name",
        "hf://org/name/../../../etc/passwd",
        "hf://org/name//etc/passwd",
        "hf://org/name@..%2F..%2Fx",
        "hf://org/name@%2Fetc",
        "hf://org/name@a%00b",
        "hf://org/na me",
        "hf://org/name/a\\b",
        "hf://org/" + "n" * 5000,
        "hf://org/" + "n" * 300,
        "hf://org/name@" + "r" * 300,
        "hf://org/name/" + "f" * 300,
        "hf://org",
        "hf://",
        "hf://org/name\n",
        "hf://örg/name",
    ],
)
def test_hostile_names_are_one_error(cache, path):
    (cache.folder / "models--org--name" / "refs").mkdir(parents=True)
    message = refused(path)
    assert "no file of the hub" in message or "is no URL" in message
    assert len(message) < 1000


@pytest.mark.parametrize("content", ["../../../elsewhere", "", "a b", "\x00"])
def test_a_damaged_ref_leads_nowhere(cache, model, content):
    snapshot = cache.add(NAME, model)
    (snapshot.parents[1] / "refs" / "main").write_text(content)
    assert "HF_HUB_OFFLINE" in refused(f"hf://{NAME}")
    assert same(vit_jax.load(f"hf://{NAME}@{COMMIT}"), model)


def test_describing_a_cached_model_reads_no_array(cache, model):
    cache.add(NAME, model)
    assert pretrained.describe(f"hf://{NAME}").architecture.num_classes == 5
