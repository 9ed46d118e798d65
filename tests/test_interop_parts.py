"""Weights inside of training states and modules: found, chosen and told apart."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch_files

from vit_jax import errors, models, tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import dialects, files
from vit_jax.weights.formats import safetensors, sidecars
from vit_jax.weights.source import Tensors

ARCH = models.architecture(
    "B/16",
    num_classes=3,
    image_size=8,
    patch=(4, 4),
    width=64,
    depth=2,
    mlp_width=24,
    heads=1,
    gelu="erf",
)


def leaves_of(arch, seed=0):
    rng = np.random.default_rng(seed)
    shapes = dict(tree.named_leaves(models.abstract(arch)[1]))
    return {
        name: rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in shapes.items()
    }


LEAVES = leaves_of(ARCH)
OTHER = {name: array + 1 for name, array in LEAVES.items()}
HINTS = {"heads": 1}


def tensors_of(leaves, dialect="timm"):
    entry = dialects.DIALECTS[dialect]
    from vit_jax.weights import rules

    made = rules.save(entry.rules, leaves)
    return {entry.prefix + name: np.array(made.read(name)) for name in made.names}


STATE = tensors_of(LEAVES)
STATE2 = tensors_of(OTHER)


def prefixed(prefix, state=STATE):
    return {f"{prefix}{name}": array for name, array in state.items()}


def check_is(weights, leaves=LEAVES):
    assert set(weights.leaves.names) == set(leaves)
    for name, array in leaves.items():
        assert np.array_equal(weights.leaves.read(name), array), name


def read(path, **options):
    return files.read(path, **(HINTS | options))


EXTRA = {
    "optimizer": {"state": {0: {"exp_avg": np.zeros(3, np.float32)}}},
    "epoch": 3,
    "args": torch_files.Call("argparse Namespace", (), {"lr": 0.1}),
}
NESTED = {
    "bare": STATE,
    "model": {"model": STATE, **EXTRA},
    "state_dict": {"state_dict": STATE, **EXTRA},
    "model_state_dict": {"model_state_dict": STATE, **EXTRA},
    "params": {"params": STATE, **EXTRA},
    "net": {"net": STATE, **EXTRA},
    "ema": {"ema": STATE, **EXTRA},
    "teacher": {"teacher": STATE, **EXTRA},
    "data parallel": {"model": prefixed("module."), **EXTRA},
    "compiled": {"state_dict": prefixed("_orig_mod."), **EXTRA},
    "both": {"model": prefixed("module._orig_mod."), **EXTRA},
    "lightning": {"state_dict": prefixed("model."), **EXTRA},
    "three": {"state_dict": prefixed("module.model.backbone."), **EXTRA},
    "encoder": prefixed("encoder."),
    "dicts": {"checkpoint": 1, "model": {"module": STATE}, **EXTRA},
}


@pytest.mark.parametrize("case", NESTED)
def test_weights_are_found_in_a_training_state(tmp_path, case):
    with read(torch_files.save(tmp_path / "x.pth", NESTED[case])) as weights:
        assert weights.dialect == "timm"
        assert weights.architecture.depth == 2
        check_is(weights)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "ema."),
        *("module._orig_mod.", "model.module.", "teacher.backbone."),
    ],
)
def test_and_under_the_flat_names_of_safetensors(tmp_path, prefix):
    path = tmp_path / "x.safetensors"
    safetensors.write(Tensors.of(prefixed(prefix)), path)
    with read(path) as weights:
        check_is(weights)


@pytest.mark.parametrize("dialect", ["hf_vit", "timm", "google", "big_vision"])
def test_in_every_dialect(tmp_path, dialect):
    arch = ARCH if dialect != "big_vision" else ARCH.replace(prefix_positions=0)
    leaves = leaves_of(arch)
    made = dict(tensors_of(leaves, dialect).items())
    path = torch_files.save(tmp_path / "x.pth", {"model": prefixed("module.", made)})
    with read(path, **({} if dialect == "google" else HINTS)) as weights:
        assert weights.dialect == dialect
        check_is(weights, leaves)


def test_of_a_model_and_its_average_it_is_the_average(tmp_path, caplog):
    both = {"model": STATE, "model_ema": STATE2, **EXTRA}
    path = torch_files.save(tmp_path / "x.pth", both)
    with caplog.at_level(logging.INFO), read(path) as weights:
        check_is(weights, OTHER)
    assert "the average is read; FILE.pth:model is the other" in caplog.text
    with read(f"{path}:model") as weights:
        check_is(weights)
    flat = prefixed("model.") | prefixed("ema_model.", STATE2)
    safetensors.write(Tensors.of(flat), tmp_path / "x.safetensors")
    with read(tmp_path / "x.safetensors") as weights:
        check_is(weights, OTHER)


def test_teacher_and_student_are_asked_for(tmp_path, caplog):
    head = {"head.mlp.0.weight": np.zeros((4, 4), np.float32)}
    both = {
        "student": prefixed("module.backbone.") | prefixed("module.", head),
        "teacher": prefixed("backbone.", STATE2) | head,
        "epoch": 3,
    }
    path = torch_files.save(tmp_path / "x.pth", both)
    with pytest.raises(errors.UserError) as caught:
        read(path)
    assert "several models: student, teacher.\n" in str(caught.value)
    assert "Say which after a colon: FILE.pth:student" in str(caught.value)
    for subtree in ("teacher", "teacher/", "teacher/backbone", "teacher/backbone."):
        caplog.clear()
        with caplog.at_level(logging.INFO), read(f"{path}:{subtree}") as weights:
            check_is(weights, OTHER)
        assert "outside 'teacher/backbone.'" in caplog.text
        assert ("head.mlp.0.weight" in caplog.text) == ("backbone" not in subtree)
    with read(f"{path}:student") as weights:
        check_is(weights)
    flat = prefixed("student.") | prefixed("teacher.", STATE2)
    safetensors.write(Tensors.of(flat), tmp_path / "x.safetensors")
    with pytest.raises(errors.UserError, match="FILE.safetensors:student"):
        read(tmp_path / "x.safetensors")
    with read(tmp_path / "x.safetensors:teacher") as weights:
        check_is(weights, OTHER)


def test_a_part_of_an_unknown_name_is_asked_for(tmp_path):
    path = torch_files.save(tmp_path / "x.pth", {"visual": prefixed("trunk.")})
    with pytest.raises(errors.UserError, match="FILE.pth:visual"):
        read(path)
    with read(f"{path}:visual/trunk") as weights:
        check_is(weights)
    with pytest.raises(errors.UserError, match="nothing under 'text/'.*top are: vis"):
        read(f"{path}:text")


def test_tensors_without_a_place_are_an_error(tmp_path):
    more = {"adapter.weight": np.zeros(3, np.float32)}
    for tensors in (
        {"model": STATE | more},
        {"model": prefixed("module.", STATE | more)},
        {"model": prefixed("module.") | more},
        prefixed("_orig_mod.") | more,
    ):
        path = torch_files.save(tmp_path / "x.pth", tensors)
        with pytest.raises(errors.UserError, match="adapter.weight"):
            read(path)


def test_what_lies_beside_a_part_is_said(tmp_path, caplog):
    beside = {"criterion.weight": np.zeros(3, np.float32)}
    path = torch_files.save(
        tmp_path / "x.pth", {"state_dict": prefixed("model.") | beside}
    )
    with read(path) as weights:
        check_is(weights)
    (record,) = [r for r in caplog.records if "criterion.weight" in r.getMessage()]
    assert record.levelno == logging.WARNING


def test_what_cannot_be_read_among_the_weights_is_an_error(tmp_path):
    quantised = torch_files.Call("torch._utils _rebuild_qtensor", (1, 2))
    state = STATE | {"head.weight": quantised}
    path = torch_files.save(tmp_path / "x.pth", {"model": state})
    with pytest.raises(errors.UserError, match=r"head.weight: torch._utils._rebuild_q"):
        read(path)
    aside = {"model": STATE, "other": {"x": quantised}, "args": EXTRA["args"]}
    with read(torch_files.save(tmp_path / "x.pth", aside)) as weights:
        check_is(weights)


def config_of(arch=ARCH):
    entry = dialects.DIALECTS["hf_vit"]
    config = entry.config(arch, Preprocessing(arch.image_size, mean=(1, 2, 3)), None)
    preprocessor = config.pop(sidecars.PREPROCESSOR)
    return {"config.json": config, "preprocessor_config.json": preprocessor}


def write_folder(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_folders_of_transformers_with_bin_files(tmp_path):
    state = tensors_of(LEAVES, "hf_vit")
    folder = write_folder(tmp_path / "one", config_of())
    torch_files.save(folder / "pytorch_model.bin", state)
    with files.read(folder) as whole:
        assert whole.dialect == "hf_vit" and whole.preprocessing.mean == (1, 2, 3)
        check_is(whole)
    names = list(state)
    shards = {"a.bin": names[:5], "b.bin": names[5:]}
    places = {n: file for file, part in shards.items() for n in part}
    index = {"metadata": {}, "weight_map": places}
    folder = write_folder(
        tmp_path / "two", config_of() | {"pytorch_model.bin.index.json": index}
    )
    for file, part in shards.items():
        torch_files.save(folder / file, {name: state[name] for name in part})
    for path in (folder, folder / "pytorch_model.bin.index.json"):
        with files.read(path) as sharded:
            assert sharded.architecture == whole.architecture
            check_is(sharded)
    (folder / "b.bin").unlink()
    with pytest.raises(errors.UserError, match="names b.bin, which is not there"):
        files.read(folder)


def test_a_pooler_of_another_width_is_said_to_transformers(tmp_path):
    arch = ARCH.replace(num_classes=0, pre_logits=40, norm_epsilon=1e-12)
    leaves = leaves_of(arch)
    weights = files.Weights(arch, leaves, Preprocessing((8, 8)), "hf_vit")
    files.write(weights, tmp_path / "x")
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert config["pooler_output_size"] == 40
    with files.read(tmp_path / "x") as again:
        assert again.architecture.pre_logits == 40
        check_is(again, leaves)


def test_of_two_containers_in_a_folder_it_is_safetensors(tmp_path):
    folder = write_folder(tmp_path / "one", config_of())
    torch_files.save(folder / "pytorch_model.bin", tensors_of(OTHER, "hf_vit"))
    safetensors.write(
        Tensors.of(tensors_of(LEAVES, "hf_vit")), folder / "model.safetensors"
    )
    with files.read(folder) as weights:
        check_is(weights)


def test_a_folder_of_other_files_says_which_to_name(tmp_path):
    torch_files.save(tmp_path / "checkpoint.pth", STATE)
    with pytest.raises(errors.UserError, match="name the file.*checkpoint.pth"):
        files.read(tmp_path)
    with read(tmp_path / "checkpoint.pth") as weights:
        check_is(weights)


def test_a_file_is_known_by_its_content(tmp_path):
    shutil.copy(torch_files.save(tmp_path / "x.pth", STATE), tmp_path / "weights")
    with read(tmp_path / "weights") as weights:
        check_is(weights)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(
        errors.UserError, match=r"x.h5 cannot.*\.npz.* .safetensors, .pth"
    ):
        files.read(tmp_path / "x.h5")


def test_torch_files_are_not_written(tmp_path):
    weights = files.Weights(ARCH, LEAVES, Preprocessing((8, 8)), "timm")
    with pytest.raises(errors.UserError, match="timm is written as .safetensors"):
        files.write(weights, tmp_path / "x.pth")
