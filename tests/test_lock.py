"""One run at a time in a workdir, by a lock that a dead process does not keep."""

import os
import signal
import subprocess
import sys

import pytest

from vit_jax import errors
from vit_jax.runs import lock

HOLDER = """
import sys, time
from pathlib import Path
from vit_jax.runs import lock
with lock.held(Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_one_error_until_the_first_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    workdir = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == b"has it\n"
    with pytest.raises(errors.UserError) as caught, lock.held(workdir):
        raise AssertionError("both have it")
    said = str(caught.value)
    assert f"{workdir} is in use by another run, process {first.pid} on " in said
    assert "want another --workdir" in said and caught.value.exit_code == 2
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with lock.held(workdir):
        assert f"process {os.getpid()} " in (workdir / "lock").read_text()
    with lock.held(workdir):  # it was let go
        pass


def test_what_fails_in_a_new_workdir_leaves_nothing(tmp_path):
    workdir = tmp_path / "a" / "run"
    with pytest.raises(errors.UserError), lock.held(workdir):
        raise errors.UserError("of what comes later")
    assert not (tmp_path / "a").exists()
    with lock.held(workdir) as undo:
        (workdir / "config.json").touch()
        undo()
    assert os.listdir(workdir) == ["config.json"]


def test_the_holder_may_remove_what_others_wait_for(tmp_path, monkeypatch):
    """Whoever waited has the lock of a file that is gone, and takes the new one's."""
    opened = os.open
    removed = []

    def open_and_lose(path, *args):
        file = opened(path, *args)
        if not removed:
            removed.append(os.unlink(path))
        return file

    monkeypatch.setattr(os, "open", open_and_lose)
    with lock.held(tmp_path):
        monkeypatch.undo()
        monkeypatch.setattr(lock, "PATIENCE", 0.0)
        with pytest.raises(errors.UserError), lock.held(tmp_path):
            raise AssertionError("both have it")


@pytest.mark.parametrize("where", ["gs://bucket/run", "/proc/run"])
def test_where_there_is_no_lock_a_run_goes_on_without(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with lock.held(type(tmp_path)(where)):
        pass
    assert not os.listdir(tmp_path)
