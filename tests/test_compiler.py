"""Options of the TPU compiler: which ones a step is compiled with."""

import types

import jax
import pytest

from vit_jax import compiler


def test_only_a_tpu_has_options():
    assert compiler.options(jax.devices()[0]) == {}


@pytest.mark.parametrize("refused", range(len(compiler.CANDIDATES) + 1))
def test_the_first_candidate_that_is_known_is_taken(monkeypatch, refused):
    wrong = [tuple(o.items()) for o in compiler.CANDIDATES[:refused]]
    monkeypatch.setattr(compiler, "_is_known", lambda _, option: option not in wrong)
    found = compiler.options(types.SimpleNamespace(platform="tpu"))
    assert found == (*compiler.CANDIDATES, {})[refused]


def test_a_compiler_s_refusal_is_noticed():
    device = jax.devices()[0]
    assert compiler._is_known(device, ())
    assert not compiler._is_known(device, (("xla_no_such_option", "1"),))
