"""A request to stop is answered while the main thread is busy."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from vit_jax import errors
from vit_jax.runs import phases, stopping


def term():
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_it_says_at_once_and_again_what_it_waits_for(caplog, monkeypatch):
    monkeypatch.setattr(stopping, "REPEAT", 0.02)
    clock = iter([0.0] * 3 + [12.0] * 99)
    requests = stopping.Requests(phases.Phases(lambda: next(clock)))
    requests.phases.enter(phases.STEP)
    requests.phases.stepped(6)
    before = signal.getsignal(signal.SIGTERM)
    with caplog.at_level(logging.WARNING), requests.listening():
        assert not requests
        term()
        said = "waiting for step 7, for 12 s"
        wait_for(lambda: caplog.text.count(said) >= 2)
    assert requests
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_evaluation_ends_early_and_none_begins():
    requests = stopping.Requests()
    with requests.listening():
        with pytest.raises(stopping.Interrupted), requests.interruptible():
            term()
            time.sleep(10)
        with pytest.raises(stopping.Interrupted), requests.interruptible():
            raise AssertionError("it begins")


def test_images_that_come_soon_are_waited_for():
    requests = stopping.Requests()
    with requests.listening():
        with requests.interruptible(0.2):
            term()
            time.sleep(0.01)
        with pytest.raises(stopping.Interrupted), requests.interruptible(0.2):
            time.sleep(10)  # asked before
    assert requests


def test_no_handler_of_errors_takes_it_for_one():
    requests = stopping.Requests()
    with requests.listening(), pytest.raises(stopping.Interrupted):
        with requests.interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Exception:
                pytest.fail("as an image that Pillow cannot decode")


@pytest.mark.skipif(sys.platform != "linux", reason="a call that no signal ends")
def test_a_long_step_is_no_excuse():
    """One call into C, as a step is: the first answers, the second ends with 42."""
    script = (
        "import ctypes, logging, sys; from vit_jax.runs import stopping\n"
        "stopping.INSIST = 0.1; logging.basicConfig()\n"
        "requests = stopping.Requests()\n"
        "requests.phases.enter('step')\n"
        "requests.phases.stepped(2)\n"
        "with requests.listening():\n"
        "    print('ready', flush=True)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    while True: libc.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "waiting for step 3" in process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == errors.EXIT_RETRY
    assert "during step 3" in said and "same command again" in said
