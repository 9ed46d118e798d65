"""Options of the TPU compiler: which ones a step is compiled with."""

import types

import jax
import numpy as np
import pytest

from vit_jax.parallel import mesh, xla


def slice_of(*processes):
    """A mesh of TPUs that belong to these processes."""
    devices = [
        types.SimpleNamespace(platform="tpu", process_index=index)
        for index in processes
    ]
    return types.SimpleNamespace(devices=np.array(devices))


def test_only_a_tpu_has_options():
    assert xla.options(mesh.make_mesh()) == {}


@pytest.mark.parametrize("refused", range(len(xla.CANDIDATES) + 1))
def test_the_first_candidate_that_is_known_is_taken(monkeypatch, refused):
    wrong = [tuple(o.items()) for o in xla.CANDIDATES[:refused]]
    monkeypatch.setattr(xla, "_is_known", lambda _, option: option not in wrong)
    assert xla.options(slice_of(0)) == (*xla.CANDIDATES, {})[refused]


def test_a_process_asks_for_a_device_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(xla, "_is_known", lambda one, _: asked.append(one) or True)
    pod = slice_of(2, 1, 0)
    xla.options(pod)
    assert asked == [pod.devices[2]]


def test_a_compiler_s_refusal_is_noticed():
    device = jax.devices()[0]
    assert xla._is_known(device, ())
    assert not xla._is_known(device, (("xla_no_such_option", "1"),))
