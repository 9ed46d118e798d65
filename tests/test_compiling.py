"""What is compiled when: a first state beside the step."""

import jax
import pytest

from configs import quickstart
from vit_jax import experiment
from vit_jax.parallel import mesh
from vit_jax.runs import compiling


@pytest.mark.parametrize("anew", [True, False])
def test_a_first_state_is_compiled_where_it_is_drawn(anew, compiled):
    config = quickstart.get_config()
    small = {"model.depth": 1, "model.width": 8, "model.mlp_width": 8}
    config.update_from_flattened_dict(small | {"model.heads": 1})
    one = mesh.make_mesh(devices=jax.devices()[:1])
    exp = experiment.assemble(config, one)
    found = compiling.compiled(exp, anew=anew)
    assert len(compiled) == 1 + anew
    assert isinstance(found.train_step, jax.stages.Compiled)
    assert isinstance(found.init, jax.stages.Compiled) == anew
