"""The best checkpoint of a run, and its end where none is better any more."""

import logging
import math

import jax
import numpy as np
import pytest

from configs import base, quickstart
from vit_jax import checkpoint as command
from vit_jax import errors, evaluate, evaluators, experiment, train
from vit_jax.checkpoints import best, disk, manager
from vit_jax.data import labels
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.evaluators import figures
from vit_jax.parallel import mesh
from vit_jax.runs import companions
from vit_jax.weights import pretrained

pytestmark = pytest.mark.usefixtures("compiled_once")


def judged(figure, *values):
    last, said = best.START, []
    for step, value in enumerate(values, start=1):
        last = best.judge(figure, last, step, value)
        said.append((last.best, last.since))
    return said


def test_what_is_better():
    nan = math.nan
    assert judged("val/top1", nan, 0.5, 0.5, nan, 0.6) == [
        *((0, 1), (2, 0), (2, 1), (2, 2), (5, 0))
    ]
    for figure in ("val/loss", "val/mse", "val/mae"):
        assert judged(figure, 2.0, 3.0, 1.0) == [(1, 0), (1, 1), (3, 0)]
    assert judged("val/r2", -2.0, 0.5, 0.1) == [(1, 0), (2, 0), (2, 1)]


# What the evaluation of each step says, as if the model became better and worse.
TOLD = {2: 0.1, 4: 0.7, 6: 0.3, 8: 0.7, 10: 0.2, 11: 0.5, 12: 0.6}


def scripted(monkeypatch):
    """Has an evaluation say what `TOLD` has, and returns the steps it is run at."""
    at, run = [], companions.Run._run

    def says(context, *, dataset, split):
        return lambda params: {"top1": TOLD[at[-1]], "loss": -TOLD[at[-1]]}

    def counted(self, evaluation, step, state):
        at.append(step)
        return run(self, evaluation, step, state)

    monkeypatch.setattr(companions.Run, "_run", counted)
    monkeypatch.setitem(evaluators.EVALUATORS, "scripted", lambda: says)
    return at


@pytest.fixture(autouse=True)
def told(monkeypatch):
    return scripted(monkeypatch)


@pytest.fixture(scope="module")
def one_device():
    return mesh.make_mesh(devices=jax.devices()[:1])


def config(**changes):
    found = quickstart.get_config()
    found.update_from_flattened_dict(
        {
            "total": "12 steps",
            "eval_every": "2 steps",
            "save_every": "5 steps",
            "keep": 1,
            "keep_best": "val/top1",
            "batch_size": 16,
            "data.train.transform": "resize",
            "model.depth": 1,
            "model.width": 16,
            "model.mlp_width": 16,
            "model.heads": 2,
        }
        | changes
    )
    base.set_evals(found, val=base.evaluation("scripted", "test"))
    return found


def steps(workdir):
    return disk.available(workdir / disk.FOLDER)


def leaves(path):
    with pretrained.open_weights(path) as opened:
        return {name: opened.leaves.read(name) for name in opened.leaves.shapes}


class Killed(BaseException):
    """An end that nobody is told of."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_device):
    """A run that nothing interrupted: the best is step 4, four evaluations follow."""
    with pytest.MonkeyPatch.context() as patched:
        scripted(patched)
        workdir = tmp_path_factory.mktemp("whole")
        train.run(config(stop_after=5), workdir, one_device)
    return workdir


def test_the_best_stands_beside_the_newest(whole):
    """It is at an evaluation's step, whether that is saved at or not."""
    workdir = whole
    assert steps(workdir) == [4, 12] and best.step_of(workdir) == 4
    at_best = leaves(f"{workdir}:best")
    for name, leaf in leaves(workdir / "checkpoints" / "4").items():
        np.testing.assert_array_equal(leaf, at_best[name])
    assert any((leaf != at_best[name]).any() for name, leaf in leaves(workdir).items())
    figures = evaluate.run(f"{workdir}:best", "digits", split="test[:50]")
    assert figures["examples"] == 50

    found = [command.look(folder) for folder in command.folders(workdir)]
    assert [(one.folder.name, one.best) for one in found] == [
        ("12", False),
        ("4", True),
    ]
    assert "the best" in found[1].line
    assert command.prune(found, 1) == [] and command.prune(found[1:], 1) == []


@pytest.mark.parametrize(
    "step, at",
    [
        (4, "before the save"),
        pytest.param(4, "before the record", marks=pytest.mark.slow),
        pytest.param(4, "after it", marks=pytest.mark.slow),
        # A step that was saved before its evaluation.
        pytest.param(10, "before the record", marks=pytest.mark.slow),
    ],
)
def test_a_kill_changes_neither_the_best_nor_the_patience(
    whole, one_device, tmp_path, monkeypatch, at, step
):
    """Bit for bit: the record, and the checkpoints with all of their state."""

    def killing(function):
        def wrapped(*args, **kwargs):
            now = args[-1].step if function is save else args[-1][-1].step
            if now != step or now in killed:
                return function(*args, **kwargs)
            killed.append(now)
            if at == "after it":
                function(*args, **kwargs)
                args[0]._manager.wait_until_finished()
            raise Killed

        return wrapped

    killed, save = [], manager.Checkpoints.save
    workdir = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        if at == "before the record":
            patched.setattr(best, "write", killing(best.write))
        else:
            patched.setattr(manager.Checkpoints, "save", killing(save))
        train.run(config(stop_after=5), workdir, one_device)
    train.run(config(stop_after=5), workdir, one_device)
    assert (workdir / best.FILE).read_bytes() == (whole / best.FILE).read_bytes()
    assert steps(workdir) == steps(whole) == [4, 12]
    exp = experiment.assemble(config(), one_device)
    for number in steps(whole):
        ours, theirs = (
            manager.Checkpoints(folder)._read(
                folder / disk.FOLDER / str(number), exp.state
            )
            for folder in (workdir, whole)
        )
        assert ours[1].leaves == theirs[1].leaves  # with a digest of each


def test_it_ends_where_nothing_is_better(one_device, tmp_path, told, caplog):
    changes = {"stop_after": 2, "total": "100 steps"}
    figures = train.run(config(**changes), tmp_path, one_device)
    assert figures == {"val/top1": 0.7, "val/loss": -0.7} and told[-1] == 8
    assert steps(tmp_path) == [4, 8]
    with caplog.at_level(logging.INFO):
        again = train.run(config(**changes), tmp_path, one_device)
    assert again == figures and len(told) == 4
    assert "is at step 8 of 100 already" in caplog.text
    # More patience goes on from there; a loss is best where it is least.
    figures = train.run(config(total="100 steps", stop_after=3), tmp_path, one_device)
    assert figures["val/top1"] == 0.2 and steps(tmp_path) == [4, 10]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"keep_best": "top1"}, "want the figure of an evaluation, as in"),
        ({"keep_best": "", "stop_after": 3}, "want the figure of an evaluation"),
        ({"keep_best": "vall/top1"}, "no evaluation 'vall'; .*mean \"val\""),
        (
            {"keep_best": "val/top5"},
            "no figure 'top5' to choose by; it has top1.*mean \"top1\"",
        ),
    ],
)
def test_what_says_no_best_is_one_error(one_device, tmp_path, changes, words):
    with pytest.raises(errors.UserError, match=words):
        train.run(config(**changes), tmp_path, one_device)
    with pytest.raises(errors.UserError, match="no best checkpoint.*keep_best=EVAL"):
        pretrained.describe(f"{tmp_path}:best")


@pytest.mark.parametrize(
    "one, figure, words",
    [
        (base.classify("test"), "topp1", 'it has top1, top5, loss.*mean "top1"'),
        (base.classify("test"), "examples", "no figure 'examples' to choose by"),
        (base.fewshot("train", "test"), "5shots", '1shot, 5shot, .*mean "5shot"'),
        (base.knn("train", "test"), "10nn", "it has 20nn"),
        (base.probe("train", "test"), "l2", "it has top1, dev"),
    ],
)
def test_a_figure_misspelt_is_told_before_anything_starts(
    one_device, tmp_path, one, figure, words
):
    wanted = config(keep_best=f"val/{figure}")
    base.set_evals(wanted, val=one)
    with pytest.raises(errors.UserError, match=words):
        train.run(wanted, tmp_path / "run", one_device)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["classify", "fewshot", "knn", "probe"])
def test_figures_known_before_are_those_that_evaluations_have(one_device, kind):
    def forward(params, images):
        rows = images.reshape(len(images), -1)[:, :8].astype(np.float32)
        return {"features": rows, "logits": np.zeros((len(rows), 10), np.float32)}

    context = evaluators.Context(
        datasets=evaluators.Datasets("digits", ""),
        forward=forward,
        preprocessing=Preprocessing(image_size=(2, 2)),
        outputs=labels.Side("the model", 10),
        batch_size=512,
        mesh=one_device,
    )
    options = base.EVALUATIONS[kind]("digits").to_dict()
    options |= {"shots": (1, 2), "seeds": 2} if kind == "fewshot" else {}
    options |= {"l2": (1.0,), "max_iterations": 9} if kind == "probe" else {}
    options |= {"split": "test[:50]", "train_split": "train[:50]"}
    options.pop("train_split" if kind == "classify" else "", None)
    if kind != "classify":  # of "" the usual split is that of the test
        with pytest.raises(errors.UserError, match="train_split is empty"):
            evaluators.make(options | {"train_split": ""}, context)
    found = evaluators.make(options, context)({})
    told = figures.Told("digits", options, 10, multi_label=False)
    more = {"examples", "corrupt", "l2", "1shot_std", "2shot_std"}
    known = set(figures.deciding(kind, told)) - ({"dev"} if kind == "probe" else set())
    assert known and known == set(found) - more
