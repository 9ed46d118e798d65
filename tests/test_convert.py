"""From any dialect to any other: the same function, or one clear error."""

import hashlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from vit_jax import convert, errors, models, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files, pretrained

# Most tests verify models of the same shapes, whose programs are the same.
pytestmark = pytest.mark.usefixtures("compiled_once")

HOLD_TANH = {  # dialect -> a name to write
    "google": "target.npz",
    "google_old": "target.npz",
    "big_vision": "target.npz",
    "big_vision_scan": "target.bv",
    "hf_vit": "folder",
    "timm": "folder",
    "vit_jax": "weights",
}


def arch(**options):
    options = {"num_classes": 5, "image_size": 32, "depth": 2, "heads": 2} | options
    return models.architecture("mu/8", **options)


def weights(architecture, seed=0):
    """Random values everywhere, zeros and ones nowhere."""
    rng = np.random.default_rng(seed)

    def drawn(name, leaf):
        value = name.endswith("/scale") + 0.1 * rng.standard_normal(leaf.shape)
        if name.endswith("/kernel"):
            value *= 2
        return value.astype(np.float32)

    params = tree.map_named(drawn, models.abstract(architecture)[1])
    half = Preprocessing(architecture.image_size)
    return files.Weights(architecture, params, half, "google")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.npz"
    files.write(weights(arch()), path, "google")
    return path


@pytest.mark.parametrize("dialect", HOLD_TANH)
def test_every_dialect_of_the_tanh_vit_holds_it(source, tmp_path, dialect):
    target = tmp_path / HOLD_TANH[dialect]
    figures = convert.run(str(source), target, dialect, verify=True)
    assert (figures["from"], figures["to"]) == ("google", dialect)
    assert figures["max_difference"] <= 1e-5
    back = convert.run(str(target), tmp_path / "back.npz", "google", verify=True)
    first, last = files.read(source), files.read(tmp_path / "back.npz")
    assert back["max_difference"] <= 1e-5
    if "big_vision" not in dialect:  # it has no position of the class token
        for name in first.leaves:
            np.testing.assert_array_equal(first.leaves[name], last.leaves[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gelu": "erf"}, "gelu='erf'"),
        ({"norm_epsilon": 1e-12}, "norm_epsilon=1e-12"),
        ({"registers": 2}, "registers"),
        ({"posemb": "relative"}, "relative"),
    ],
)
def test_a_dialect_that_cannot_say_it_refuses(tmp_path, options, message):
    interop_weights = weights(arch(**options))
    described = checkpoint.Description(
        interop_weights.architecture, interop_weights.preprocessing, None, {}, 0
    )
    source = tmp_path / "source"
    checkpoint.write_params(source, interop_weights.params, described)
    with pytest.raises(errors.UserError, match=message) as caught:
        convert.run(str(source), tmp_path / "target.npz", "google")
    assert len(str(caught.value).splitlines()) <= 10
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_size_and_head_can_change_on_the_way(source, tmp_path):
    target = tmp_path / "larger.npz"
    convert.run(str(source), target, "google", image_size=48, num_classes=0)
    loaded = pretrained.load(target)
    assert loaded.architecture.image_size == (48, 48)
    assert loaded.architecture.num_classes == 0
    wanted = pretrained.load(source, image_size=48, num_classes=0)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)


def test_what_is_there_is_kept_unless_told(source, tmp_path):
    target = tmp_path / "target.npz"
    target.write_bytes(b"mine")
    with pytest.raises(errors.UserError, match="--overwrite"):
        convert.run(str(source), target, "google")
    with pytest.raises(errors.UserError, match="timm is written as .safetensors"):
        convert.run(str(source), target, "timm", overwrite=True)
    assert target.read_bytes() == b"mine"
    convert.run(str(source), target, "google", overwrite=True)
    assert pretrained.load(target).architecture.num_classes == 5
    files_there = {p.name for p in tmp_path.iterdir()}
    assert files_there == {"source.npz", "target.npz", "target.npz.sha256"}


@pytest.mark.parametrize("form", ["file", "folder"])
def test_what_is_there_survives_a_kill_at_any_call(source, tmp_path, monkeypatch, form):
    """The name is never without one of both, or the next call gives the old it back."""
    target = tmp_path / {"file": "target.npz", "folder": "target"}[form]
    dialect = {"file": "google", "folder": "vit_jax"}[form]

    class Killed(BaseException):
        pass

    convert.run(str(source), target, dialect, num_classes=7)
    calls = []
    for name in ("rename", "replace", "unlink"):
        real = getattr(type(target), name)

        def counted(path, *arguments, real=real, **options):
            if stop_at == len(calls):
                raise Killed
            calls.append(path.name)
            return real(path, *arguments, **options)

        monkeypatch.setattr(type(target), name, counted)
    stop_at, finished = 0, False
    while not finished:
        calls.clear()
        try:
            convert.run(str(source), target, dialect, overwrite=True)
            finished = True
        except Killed:
            stop_at += 1
        stopped, stop_at = stop_at, -1
        convert._mend(target)
        assert pretrained.load(target).architecture.num_classes in (5, 7)
        stop_at = stopped
    assert stop_at >= 2 and pretrained.load(target).architecture.num_classes == 5


def test_wrong_dialects_are_said(source, tmp_path):
    with pytest.raises(errors.UserError, match='mean "big_vision"'):
        convert.run(str(source), tmp_path / "x.npz", "bigvision")
    with pytest.raises(errors.UserError, match="no models of the vit family.*google"):
        convert.run(str(source), tmp_path / "x.npz", "mixer")


def test_comparing_finds_a_difference(source, tmp_path):
    other = tmp_path / "other.npz"
    files.write(weights(arch(), seed=1), other, "google")
    with pytest.raises(errors.UserError, match="differ by up to"):
        convert.compare(str(source), other, {}, {})


def test_the_command(source, tmp_path):
    command = [sys.executable, "-m", "vit_jax.convert", str(source)]
    target = str(tmp_path / "bv.npz")
    done = subprocess.run(
        [*command, target, "--dialect=big_vision", "--verify"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["target"] == target
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 2 and "want SOURCE TARGET" in wrong.stderr


WIDE = {"48x64": (6, 8), "16x64": (2, 8), "16x40": (2, 5)}


@pytest.mark.parametrize("size", WIDE)
@pytest.mark.parametrize("dialect", HOLD_TANH)
def test_models_that_are_not_square_convert(source, tmp_path, caplog, dialect, size):
    """Also where a square, or one and a class token, has as many positions."""
    target = tmp_path / HOLD_TANH[dialect]
    convert.run(str(source), target, dialect, image_size=size)
    said = {} if "load it with grid" not in caplog.text else {"grid": WIDE[size]}
    assert bool(said) == ("npz" in target.name or "bv" in target.name)
    back = pretrained.open_weights(target, **said, **({"heads": 2} if said else {}))
    with back.leaves as leaves:
        assert back.architecture.grid == WIDE[size]
        table = leaves.read("posemb")[:, -np.prod(WIDE[size]) :]
    expected = files.read(source, heads=2, image_size=size).leaves.read("posemb")
    np.testing.assert_array_equal(table, expected[:, 1:])


@pytest.mark.parametrize("dialect", ["big_vision", "timm"])
def test_a_model_that_is_not_square_is_verified(tmp_path, dialect):
    source = tmp_path / "source.npz"
    files.write(weights(arch(depth=1, pool="mean")), source, "big_vision")
    target = tmp_path / HOLD_TANH[dialect]
    figures = convert.run(
        str(source), target, dialect, image_size="16x40", verify=True, heads=2
    )
    assert figures["max_difference"] <= 1e-5
    again = tmp_path / "again.npz"
    said = {} if dialect == "timm" else {"grid": (2, 5), "heads": 2}
    figures = convert.run(str(target), again, "big_vision", verify=True, **said)
    assert figures["max_difference"] <= 1e-5


def test_bfloat16_is_verified_in_float32(tmp_path, monkeypatch):
    """Rounded to bfloat16 the two logits differ by more than the tolerance."""
    made = weights(arch(depth=1, compute_dtype="bfloat16"))
    described = checkpoint.Description(
        made.architecture, made.preprocessing, None, {}, 0
    )
    checkpoint.write_params(tmp_path / "ours", made.params, described)
    types = []
    load = pretrained.load

    def spied(*args, **options):
        loaded = load(*args, **options)
        types.append(loaded.architecture.compute_dtype)
        return loaded

    monkeypatch.setattr(pretrained, "load", spied)
    figures = convert.run(
        str(tmp_path / "ours"), tmp_path / "x.npz", "google", verify=True, heads=2
    )
    assert types == ["float32", "float32"]
    assert figures["max_difference"] <= 1e-5
    kept = tmp_path / "kept"
    convert.run(str(tmp_path / "ours"), kept, "vit_jax")
    assert load(kept).architecture.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("dialect", "name", "file"),
    [
        ("google", "target.npz", "target.npz"),
        ("timm", "folder", "folder/model.safetensors"),
        ("hf_vit", "a.safetensors", "a.safetensors"),
    ],
)
def test_what_is_converted_has_a_digest_that_is_checked(
    source, tmp_path, dialect, name, file
):
    convert.run(str(source), tmp_path / name, dialect)
    path = tmp_path / file
    said = path.with_name(f"{path.name}.sha256")
    hexadecimal = hashlib.sha256(path.read_bytes()).hexdigest()
    assert said.read_text() == f"{hexadecimal}  {path.name}\n"
    pretrained.load(tmp_path / name)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=f"wanted sha256 {hexadecimal}"):
        pretrained.load(tmp_path / name)
    said.write_text("none")
    with pytest.raises(errors.UserError, match="holds no SHA-256"):
        pretrained.load(tmp_path / name)
    convert.run(str(source), tmp_path / name, dialect, overwrite=True)
    pretrained.load(tmp_path / name)


def test_a_folder_of_arrays_has_the_digests_of_its_files(source, tmp_path):
    target = tmp_path / "target.bv"
    convert.run(str(source), target, "big_vision_scan")
    said = (tmp_path / "target.bv.sha256").read_text().splitlines()
    below = {str(x.relative_to(tmp_path)) for x in target.rglob("*") if x.is_file()}
    assert {line.split("  ")[1] for line in said} == below
    pretrained.load(target)
    chunk = max((x for x in target.rglob("*") if x.is_file()), key=lambda x: x.name)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    name = str(chunk.relative_to(tmp_path))
    with pytest.raises(errors.UserError, match=f"{name} is not what target.bv.sha256"):
        pretrained.load(target)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(weights, path, dialect):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    weights = files.Weights(None, {}, None, "timm")
    monkeypatch.setattr(files, "write", full)
    (tmp_path / "there").mkdir()
    with pytest.raises(errors.UserError, match="there cannot be written.*No space"):
        convert._write(weights, tmp_path / "there", "timm")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
