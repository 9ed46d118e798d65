"""Linear probing: nothing but the head learns, and it is evaluated."""

import jax
import numpy as np
import pytest

from configs import probe
from vit_jax import experiment, train, tree
from vit_jax.checkpoints import checkpoint

SOURCE = "tests/golden/checkpoint_v1"


def test_the_head_alone_learns_and_is_evaluated(request, tmp_path):
    source = request.config.rootpath / SOURCE
    config = probe.get_config(f"{source},digits")
    config.update_from_flattened_dict(
        {"total": "12 steps", "batch_size": 64, "log_every": "1 steps", "keep": 1}
        | {"model.image_size": (16, 16), "model.compute_dtype": "float32"}
        | {"data.train.transform": "resize"}
        | {"optimizer.lr": 0.2, "data.flip": False, "save_every": ""}
    )
    mesh = experiment.make_mesh(config, jax.devices()[:1])
    figures = train.run(config, tmp_path, mesh)
    assert figures["test/loss"] < np.log(10) - 0.01  # that of the new head of zeros
    assert figures["test/top1"] > 0.1
    before, after = (
        dict(tree.named_leaves(checkpoint.read_params(path)[0]))
        for path in (source, tmp_path)
    )
    assert before.keys() == after.keys()
    changed = {n for n in after if before[n].tobytes() != after[n].tobytes()}
    assert changed == {"head/kernel", "head/bias"}


def test_the_protocol():
    """DINO's eval_linear.py: 0.001 for 256 images, momentum, no decay, 100 epochs."""
    config = probe.get_config("hf://timm/x,pets")
    assert config.init_from == "hf://timm/x"
    assert (config.data.dataset, config.evals.test.split) == ("oxford_iiit_pet", "test")
    assert (config.total, config.batch_size) == ("100 epochs", 1024)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum) == ("sgd", 0.9)
    assert (optimizer.lr, optimizer.weight_decay) == (0.004, 0.0)
    assert probe.get_config("checkpoint,digits").init_from == ""
    for wrong in (None, "", "digits", "augreg:B/16,imagenet2012,digits", "x,"):
        with pytest.raises(ValueError, match=r"want configs/probe.py:CHECKPOINT"):
            probe.get_config(wrong)
