"""Whole runs on data of every form, and on a source that a program hands over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import shards

from configs import base, quickstart
from vit_jax import errors, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog
from vit_jax.parallel import mesh

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = {
    "total": "3 steps",
    "batch_size": 8,
    "log_every": "1 steps",
    "eval_every": "",
    "model.name": "mu/8",
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.mlp_width": 16,
    "data.cache": "none",
}


def tiny(**changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(TINY | changes)
    return config


class Tagged:
    """Dicts with several labels an image, by name."""

    def __init__(self, split):
        self._images = shards.images(split)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        image, label = self._images[index]
        return {"picture": image, "tags": shards.NAMES[: label + 1]}


COUNTS = catalog.DatasetInfo("x", 3, {"train": 5}, shards.NAMES, True, True)
INFO = catalog.DatasetInfo("tagged", 3, {}, shards.NAMES, True, True)


def losses(workdir):
    lines = [json.loads(line) for line in open(workdir / "metrics.jsonl")]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_source_handed_over_trains_as_the_same_labels_in_a_table(tmp_path):
    """Lists of classes are several labels, trained with one sigmoid each."""
    splits = {split: Tagged(split) for split in shards.COUNTS}
    device_mesh = mesh.make_mesh(devices=jax.devices()[:1])
    config = tiny(loss="sigmoid", **{"data.image_column": "picture"})
    figures = train.run(
        config, tmp_path / "given", device_mesh, source=splits, info=INFO
    )
    assert figures["test/examples"] == 6
    lines = ["file,labels,split"]
    for split in shards.COUNTS:
        for index, (image, label) in enumerate(shards.images(split)):
            (tmp_path / f"{split}{index}.jpg").write_bytes(image)
            tags = ";".join(shards.NAMES[: label + 1])
            lines.append(f"{split}{index}.jpg,{tags},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    named = tiny(loss="sigmoid", **{"data.dataset": f"csv:{tmp_path}/table.csv"})
    again = train.run(named, tmp_path / "named", device_mesh)
    assert losses(tmp_path / "given") == losses(tmp_path / "named")
    assert figures == again
    stored = json.loads((tmp_path / "given" / "config.json").read_text())
    assert stored["data"]["dataset"] == "source:tagged"
    with pytest.raises(errors.UserError, match="handed it to train.run"):
        catalog.describe("source:tagged")


@pytest.mark.parametrize(
    "source, info, shown",
    [
        (iter(()), INFO, "is a stream"),
        ({"train": []}, INFO, "holds no example"),
        (Tagged("train"), None, "label_names"),
        (Tagged("train"), COUNTS, "the source has"),
    ],
)
def test_a_source_that_cannot_be_is_one_error_and_leaves_nothing(
    source, info, shown, tmp_path
):
    with pytest.raises(errors.UserError, match=shown):
        train.run(tiny(), tmp_path / "w", mesh.make_mesh(), source=source, info=info)
    assert not list(tmp_path.iterdir())


def test_columns_of_the_run_are_those_of_its_evaluations(tmp_path):
    """And a checkpoint's own dataset is read by them, too."""
    name = shards.lists(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("file,label", "file,breed"))
    with pytest.raises(errors.UserError, match="one of label, labels"):
        train.run(tiny(**{"data.dataset": name}), tmp_path / "w", mesh.make_mesh())
    columns = {"data.dataset": name, "data.label_column": "breed"}
    config = tiny(total="1 steps", **columns)
    base.set_evals(config, a=base.classify("test"), b=base.classify("", dataset=name))
    device_mesh = mesh.make_mesh(devices=jax.devices()[:1])
    figures = train.run(config, tmp_path / "w", device_mesh)
    assert figures["a/top1"] == figures["b/top1"]
    from vit_jax import evaluate

    again = evaluate.run(str(tmp_path / "w"))
    assert again["top1"] == figures["a/top1"] and again["examples"] == 6


MODULE = """
import sys
sys.path.insert(0, {tests!r})
import shards


def make():
    return {{split: shards.Pairs(split) for split in shards.COUNTS}}
"""


@pytest.mark.slow
def test_killed_runs_of_every_form_end_in_the_same_bits(tmp_path):
    """SIGKILL, the same command again: what the other forms' whole runs end in."""
    tests = str(Path(__file__).parent)
    (tmp_path / "made_for_runs.py").write_text(MODULE.format(tests=tests))
    names = {form: make(tmp_path / form) for form, make in shards.FORMS.items()}
    names["py"] = "py:made_for_runs:make"
    flags = [
        f"--config.{key}={value}"
        for key, value in (
            TINY | {"total": "200 steps", "save_every": "20 steps"}
        ).items()
    ]
    environment = os.environ | {"VIT_JAX_CACHE": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}

    def command(form, workdir):
        return [
            *(sys.executable, "-m", "vit_jax", "train", "--config=quickstart"),
            *(*flags, f"--config.data.dataset={names[form]}", f"--workdir={workdir}"),
        ]

    def leaves(workdir):
        return {
            name: np.asarray(leaf).tobytes()
            for name, leaf in tree.named_leaves(checkpoint.read_params(workdir)[0])
        }

    whole = tmp_path / "whole"
    subprocess.run(command("csv", whole), env=environment, check=True)
    for form in names:
        workdir = tmp_path / f"of_{form}"
        process = subprocess.Popen(command(form, workdir), env=environment)
        deadline = time.time() + 120
        metrics = workdir / "metrics.jsonl"
        while time.time() < deadline and process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) > 50:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "killed while it ran"
        subprocess.run(command(form, workdir), env=environment, check=True)
        assert leaves(workdir) == leaves(whole), form
        assert losses(workdir) == losses(whole), form
