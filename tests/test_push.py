"""A trained model as a folder for the hub, which other libraries load."""

import importlib.util
import json
import subprocess
import sys
import types

import huggingface_hub
import jax
import numpy as np
import pytest
from test_hub_cache import Cache
from test_interop_timm import random_weights

import vit_jax
from configs import quickstart
from vit_jax import errors, experiment, models, train
from vit_jax.commands import push
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.runs import card
from vit_jax.weights import files, publishing

NAME = "me/digits-1.0"
TARGET = f"hf://{NAME}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps that evaluated."""
    config = quickstart.get_config()
    config.model.update({"width": 32, "depth": 1, "mlp_width": 64, "heads": 2})
    config.mesh.data = 1
    config.model.pre_logits = False
    config.total, config.batch_size = "2 steps", 64
    config.eval_every = config.save_every = "2 steps"
    path = tmp_path_factory.mktemp("run") / "digits"
    train.run(config.to_dict(), path, experiment.make_mesh(config))
    return path


@pytest.fixture(scope="module")
def pushed(workdir):
    """What a dry run writes and says."""
    return push.run(str(workdir), TARGET, dry_run=True, licence="apache-2.0")


def images_of(path):
    size = vit_jax.load(path).architecture.image_size
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


def logits_of(path):
    return np.asarray(
        vit_jax.load(path, compute_dtype="float32").model(images_of(path))
    )


def refused(*args, **options):
    with pytest.raises(errors.UserError) as caught:
        push.run(*map(str, args), **options)
    assert len(str(caught.value).splitlines()) <= 10 and len(str(caught.value)) < 1000
    return str(caught.value)


def test_a_dry_run_writes_what_the_run_is(workdir, pushed):
    folder = workdir / "hub"
    assert pushed["folder"] == str(folder) and pushed["url"] == ""
    assert pushed["loads_in"] == ["vit_jax", "transformers", "timm"]
    files_there = {path.name for path in folder.iterdir()}
    assert files_there == {"model.safetensors", "config.json", "README.md"}
    np.testing.assert_allclose(logits_of(folder), logits_of(workdir), atol=1e-6)
    assert vit_jax.load(folder).label_names == vit_jax.load(workdir).label_names


def test_a_card_tells_nothing_of_the_machine():
    said = card._training(
        {
            "data": {
                "dataset": "folder:/home/me/cats",
                "class_names": "~/secret/a.txt",
            },
            "evals": {"val": {"dataset": "csv:private/b.csv"}},
            "init_from": "/mnt/me/ViT.npz",
            "distill": {"of": ("/mnt/me/T.npz", "hf://google/vit", "gs://a/b.npz")},
            "total": "2 steps",
            "model": {"name": "B/16", "dir": "C:\\me\\x"},
        }
    )
    for word in ("home", "me/", "secret", "private", "mnt", "~", "C:"):
        assert word not in said
    for word in (
        '"cats"',
        '"a.txt"',
        '"b.csv"',
        "ViT.npz",
        "hf://google/vit",
        "gs://a/b.npz",
    ):
        assert word in said
    assert '"B/16"' in said and '"2 steps"' in said


def test_the_card_is_read_by_the_hub(workdir, pushed):
    data = huggingface_hub.ModelCard.load(workdir / "hub" / "README.md").data
    assert data.license == "apache-2.0" and data.library_name == "timm"
    assert data.pipeline_tag == "image-classification" and data.datasets == ["digits"]
    assert set(data.tags) == {"vit_jax", "transformers", "timm"}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    figures = {}
    for line in map(json.loads, lines):
        figures |= {k: v for k, v in line.items() if "/" in k and line["step"] == 2}
    assert figures
    results = {r.metric_name: r.metric_value for r in data.eval_results}
    assert results == figures
    assert [r.metric_type for r in data.eval_results].count("accuracy") >= 1
    text = (workdir / "hub" / "README.md").read_text()
    for words in (f"hf-hub:{NAME}", f'vit_jax.load("{TARGET}")', "2 steps", "seed"):
        assert words in text
    assert str(workdir) not in text


def test_transformers_and_timm_give_our_logits(workdir, pushed):
    if not all(map(importlib.util.find_spec, ("torch", "timm", "transformers"))):
        pytest.skip("torch, timm and transformers are not installed")
    import timm
    import torch
    import transformers

    folder = workdir / "hub"
    pixels = torch.from_numpy(images_of(folder).transpose(0, 3, 1, 2).copy())
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    other = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(pixels), logits_of(workdir), atol=1e-5)
        found = other(pixels).logits
    np.testing.assert_allclose(found, logits_of(workdir), atol=1e-5)
    assert tuple(other.config.id2label.values()) == vit_jax.load(folder).label_names


def write(folder, **options):
    """A checkpoint of ours with random weights, as `vit_jax.save` writes it."""
    weights = random_weights("mu/8", image_size=16, **options)
    graphdef, _ = models.abstract(weights.architecture)
    params = jax.tree.map(jax.numpy.asarray, weights.params)
    vit_jax.save(models.merge(graphdef, params), folder)
    return folder


def test_what_only_transformers_has_is_written_for_it(tmp_path):
    path = write(tmp_path / "a", mask_token=True, norm_epsilon=1e-12)
    found = push.run(str(path), TARGET, dry_run=True, dialect="hf_vit")
    assert found["loads_in"] == ["vit_jax", "transformers"]
    text = (path / "hub" / "README.md").read_text()
    assert "timm has no model of this architecture" in text
    np.testing.assert_allclose(logits_of(path / "hub"), logits_of(path), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"pre_logits": 8},
        {"posemb": "sincos_1d", "posemb_at": "every"},
    ],
)
def test_what_nobody_else_has_is_in_our_own_form(tmp_path, options):
    path = write(tmp_path / "a", **options)
    found = push.run(str(path), TARGET, dry_run=True, folder=str(tmp_path / "out"))
    wanted = vit_jax.load(path)
    again = vit_jax.load(tmp_path / "out")
    if found["dialect"] == "vit_jax":
        assert again.architecture == wanted.architecture
        assert "timm have no model" in (tmp_path / "out" / "README.md").read_text()
    np.testing.assert_array_equal(
        logits_of(tmp_path / "out"), logits_of(path), strict=True
    )


def test_our_own_form_is_loaded_from_the_hub(tmp_path, monkeypatch):
    path = write(tmp_path / "a", pre_logits=8)
    push.run(str(path), TARGET, dry_run=True)
    contents = {p.name: p.read_bytes() for p in (path / "hub").iterdir()}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Cache(tmp_path / "cache").add(NAME, contents)
    assert vit_jax.load(TARGET).dialect == "vit_jax"
    np.testing.assert_array_equal(logits_of(TARGET), logits_of(path))
    damaged = json.loads(contents["config.json"])
    damaged["vit_jax"]["architecture"] = {"family": "none"}
    contents["config.json"] = json.dumps(damaged).encode()
    Cache(tmp_path / "cache").add(NAME, contents, commit="b" * 40)
    with pytest.raises(errors.UserError):
        vit_jax.load(TARGET)


class Api:
    """The hub, which remembers what it was asked."""

    def __init__(self, token):
        Api.asked = [token]

    def create_repo(self, *args, **options):
        Api.asked.append(("create", args, options))
        return f"https://hub/{args[0]}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        names = {path.name for path in folder_path.iterdir()}
        Api.asked.append(("upload", repo_id, names))


@pytest.fixture
def hub(monkeypatch):
    """A hub package whose user has the token "secret"."""
    package = types.SimpleNamespace(get_token=lambda: "secret", HfApi=Api)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    Api.asked = []
    return package


def test_an_upload_takes_the_token_and_leaves_no_folder(tmp_path, hub):
    path = write(tmp_path / "a")
    found = push.run(str(path), TARGET, private=True)
    token, created, uploaded = Api.asked
    assert token == "secret" and created[1:] == ((NAME,), created[2])
    assert created[2] == {"private": True, "exist_ok": True}
    names = {"model.safetensors", "config.json", "README.md"}
    assert uploaded == ("upload", NAME, names)
    assert found["url"] == f"https://hub/{NAME}" and found["folder"] == ""
    assert not (path / "hub").exists()


@pytest.mark.parametrize(
    "target",
    [
        *("me/digits", "hf://digits", "hf://me/../x", "hf://me/a b", "hf://me/a--b"),
        *("hf://me/" + "n" * 5000, "hf://me/a@v1", "hf://me/a/b", "hf://.me/a", ""),
        *("hf://me/a\n", "hf://me/-a", "https://huggingface.co/me/a", "hf://me/a.git"),
    ],
)
def test_names_that_the_hub_has_not_are_one_error(tmp_path, hub, target):
    for dry_run in (True, False):
        message = refused(tmp_path, target, dry_run=dry_run)
        assert "is no name of a model on the hub" in message
    assert not Api.asked and not list(tmp_path.iterdir())


def test_errors_come_before_anything_is_written(tmp_path, hub, monkeypatch):
    path = write(tmp_path / "a")
    before = set(path.rglob("*"))
    assert "is no licence" in refused(path, TARGET, dry_run=True, licence="A B")
    assert "unknown" in refused(path, TARGET, dry_run=True, dialect="none")
    assert "pre_logits" in refused(
        write(tmp_path / "b", pre_logits=8), TARGET, dry_run=True, dialect="timm"
    )
    assert "no checkpoint" in refused(tmp_path, TARGET, dry_run=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "is there already" in refused(path, TARGET, folder=str(tmp_path / "full"))
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert "no token" in refused(path, TARGET)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(path, TARGET)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "vit_jax[hub]" in refused(path, TARGET)
    assert set(path.rglob("*")) == before and not Api.asked
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "full"}


def test_what_the_hub_refuses_is_one_error(tmp_path, hub, monkeypatch):
    def full(self, *args, **options):
        raise RuntimeError("403: not yours\nand more")

    monkeypatch.setattr(Api, "create_repo", full)
    assert "403: not yours" in refused(write(tmp_path / "a"), TARGET)


@pytest.mark.parametrize(
    ("init_from", "base"),
    [
        ("timm/vit_base_patch16_224.augreg_in21k",) * 2,
        ("hf://google/x@v1", "google/x"),
        ("hf:google/x", "google/x"),
        ("/home/somebody/a.npz", None),
        ("a/b", None),
        ("augreg:B/16", None),
        ("", None),
    ],
)
def test_the_card_says_what_it_started_from(init_from, base):
    arch = models.architecture("mu/8", num_classes=2, image_size=16)
    config = {
        "init_from": init_from,
        "data": {"dataset": "folder:/home/me/pets", "data_dir": "/data"},
    }
    names = ("<b>|cat", "dog: no")
    weights = files.Weights(
        arch, {}, Preprocessing((16, 16)), "vit_jax", names, config=config
    )
    text = card.text(
        NAME, weights, "timm", figures={"a/b": None}, step=3, licence="mit"
    )
    data = huggingface_hub.ModelCard(text).data
    assert data.get("base_model") == base and data.datasets == ["pets"]
    assert "/home" not in text and "/data" not in text and "<b>" not in text


def test_every_reader_is_of_a_dialect_that_is_written():
    from vit_jax.weights.dialects import DIALECTS

    assert set(publishing.READERS) - {"vit_jax"} <= set(DIALECTS)


@pytest.mark.slow
def test_the_command(workdir, tmp_path):
    out = tmp_path / "out"
    command = ["-m", "vit_jax", "push", str(workdir), TARGET, "--dry-run"]
    done = subprocess.run(
        [sys.executable, *command, f"--folder={out}", "--license=mit"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["folder"] == str(out)
    assert 'license: "mit"' in (out / "README.md").read_text()
