"""Rows of bad steps: told with their examples, and gone back from past their data."""

import json

import jax
import numpy as np
import pytest

from configs import quickstart
from vit_jax import errors, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog, draws
from vit_jax.parallel import mesh
from vit_jax.runs import bad_steps

SIZE, BATCH = 64, 8
TINY = {
    "total": "12 steps",
    "batch_size": BATCH,
    "log_every": "1 steps",
    "eval_every": "",
    "save_every": "2 steps",
    "loss": "softmax",
    "log.writers": "",
    "model.name": "mu/8",
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.mlp_width": 16,
    "data.cache": "none",
}
INFO = catalog.DatasetInfo("poisoned", 2, {}, ("a", "b"), True, True)


class Poisoned:
    """Vectors as labels, of which some are so large that the loss is infinite."""

    def __init__(self, bad=()):
        self.bad = set(bad)

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        label = np.array([index % 2, 1 - index % 2], np.float32)
        image = np.full((8, 8, 3), 3 * index, np.uint8)
        return {"image": image, "label": label * (3e38 if index in self.bad else 1)}


def run(workdir, bad=(), **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(TINY | changes)
    config.evals = {}
    one = mesh.make_mesh(devices=jax.devices()[:1])
    return train.run(config, workdir, one, source={"train": Poisoned(bad)}, info=INFO)


def batch(index, seed=0):
    """The examples of a batch."""
    return draws.shuffled(seed, index * BATCH + np.arange(BATCH), SIZE)


def leaves(workdir):
    params, _ = checkpoint.read_params(workdir)
    return {name: np.asarray(leaf) for name, leaf in tree.named_leaves(params)}


def losses(workdir):
    lines = [json.loads(line) for line in open(workdir / "metrics.jsonl")]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def test_a_run_goes_back_and_past_the_data_as_if_it_had_never_come(tmp_path):
    seed = quickstart.get_config().seed
    bad = [int(batch(4, seed)[3])]  # met in step 5, with step 4 saved
    run(tmp_path / "run", bad, roll_back=1, total="8 steps")
    record = json.loads((tmp_path / "run" / "rollbacks.json").read_text())
    assert record == {"times": 1, "offsets": [[4, 1]]}
    told = [json.loads(x) for x in open(tmp_path / "run" / "bad_steps.jsonl")]
    assert [line["step"] for line in told] == [5]
    names = {f"source:poisoned:train:{index}" for index in batch(4, seed)}
    assert set(told[0]["examples"]) == names and float(told[0]["loss"]) > 1e30
    assert sorted(losses(tmp_path / "run")) == list(range(1, 9))
    # A run that leaves that batch out from the start, and never sees a bad step.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rollbacks.json").write_text(json.dumps(record))
    run(tmp_path / "other", (), total="8 steps")
    assert equal(leaves(tmp_path / "run"), leaves(tmp_path / "other"))
    assert losses(tmp_path / "run") == losses(tmp_path / "other")
    assert not (tmp_path / "other" / "bad_steps.jsonl").exists()


def test_it_ends_with_4_where_it_may_not_go_back_again(tmp_path):
    seed = quickstart.get_config().seed
    bad = [int(index) for at in (2, 3, 4) for index in batch(at, seed)]
    with pytest.raises(errors.NonFiniteError, match="went back 2 times") as caught:
        run(tmp_path, bad, roll_back=2)
    assert caught.value.exit_code == 4 and len(str(caught.value).splitlines()) <= 10
    told = [json.loads(x)["step"] for x in open(tmp_path / "bad_steps.jsonl")]
    # Back to step 2, then, as that was no help, to the start of all; each time to the
    # batch after the bad one.
    assert told == [3, 3, 1]
    record = json.loads((tmp_path / "rollbacks.json").read_text())
    assert record == {"times": 2, "offsets": [[0, 4]]}


def test_batches_follow_the_record(tmp_path):
    (tmp_path / "rollbacks.json").write_text(
        json.dumps({"times": 3, "offsets": [[4, 2], [9, 7]]})
    )
    after = bad_steps.batch_after(tmp_path)
    assert [after(done) for done in (0, 3, 4, 8, 9, 20)] == [0, 3, 6, 10, 16, 27]
    for text in ("", "[]", '{"times": 1}', '{"times": 1, "offsets": [3]}', "\xff"):
        (tmp_path / "rollbacks.json").write_text(text)
        with pytest.raises(errors.UserError, match="is damaged"):
            bad_steps.batch_after(tmp_path)
