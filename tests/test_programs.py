"""Compiled programs on disk: they change no bit, are bounded, and stay out of homes."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vit_jax.host import programs

OPTIONS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No cache yet, and our folder an empty one; everything is worth keeping."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    for name, value in zip(OPTIONS, (None, 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def outputs() -> tuple[bytes, int]:
    """What a program of its own says, and how many files there are then."""
    jax.clear_caches()
    x = np.linspace(0, 3, 500, dtype=np.float32)
    found = jax.jit(lambda x: jnp.sin(x).cumsum() / jnp.exp(x))(x)
    there = programs.folder()
    return np.asarray(found).tobytes(), sum(1 for _ in there.glob("*-cache"))


@pytest.mark.slow
def test_a_kept_program_says_the_same_and_a_damaged_one_is_compiled_again(
    fresh, caplog
):
    with caplog.at_level(logging.INFO):
        programs.keep()
    assert str(programs.folder()) in caplog.text and programs.VARIABLE in caplog.text
    assert programs.folder().stat().st_mode & 0o777 == 0o700
    compiled, count = outputs()
    assert count > 0
    assert outputs() == (compiled, count)  # read
    for path in programs.folder().glob("*-cache"):
        path.write_bytes(path.read_bytes()[:-20])  # of a process that was killed
    with pytest.warns(UserWarning, match="persistent compilation cache"):
        assert outputs() == (compiled, count)


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_a_folder_that_is_given_wins(given, fresh, monkeypatch):
    monkeypatch.setenv(programs.VARIABLE, given)
    jax.config.update(OPTIONS[0], given)  # as JAX reads it
    programs.keep()
    assert jax.config.jax_compilation_cache_dir == given
    assert not programs.folder().exists()


def test_a_cache_that_cannot_be_written_is_one_line(fresh, monkeypatch, caplog):
    monkeypatch.setenv("VIT_JAX_CACHE", "/proc/none")
    programs.keep()
    assert "not kept" in caplog.text and jax.config.jax_compilation_cache_dir is None


def test_what_was_not_used_for_longest_goes(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "tuned").mkdir()  # as XLA's own on a GPU
    for _ in range(2):
        programs.tidy(tmp_path, 25)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "tuned"]
