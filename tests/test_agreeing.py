"""Processes of a run stop at the same turn, or at once where one has no step yet."""

import json
import threading
import time

import pytest

from vit_jax.runs import agreeing, phases, stopping


class Store:
    """What JAX's key-value store does, for processes that are threads."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self._changed:
            if key in self._values:
                raise RuntimeError("ALREADY_EXISTS")
            self._values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self._changed:
            found = self._changed.wait_for(
                lambda: key in self._values, timeout_in_ms / 1000
            )
            if not found:
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]

    def wait_at_barrier(self, barrier_id, timeout_in_ms):
        pass


class Ended(Exception):
    pass


class Asked(stopping.Requests):
    """Requests whose process is a thread: its end is noted."""

    ended = ""

    def end(self, why=""):
        self.ended = why or "asked"
        raise Ended(why)


def processes(count):
    store, found = Store(), []
    for index in range(count):
        requests = Asked()
        requests.peers = agreeing.Peers(store, index, count, requests)
        requests.phases.enter(phases.STEP)
        found.append(requests)
    return found, store


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("asker", [0, 2])
def test_all_stop_at_the_same_turn_wherever_each_is(asker):
    asked, _ = processes(3)
    last = [[] for _ in asked]
    gates = [threading.Semaphore(n) for n in (3, 5, 4)]  # turns each may take now

    def loop(requests, gate, taken):
        while gate.acquire(timeout=60):
            if requests.turn():
                taken.append(requests.turns)
                return

    threads = [
        threading.Thread(target=loop, args=each) for each in zip(asked, gates, last)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: [requests.turns for requests in asked] == [3, 5, 4])
    asked[asker].tell(asked[asker].phases.now())
    wait_for(lambda: all(requests.until == 6 for requests in asked))
    for gate in gates:
        gate.release(9)
    for thread in threads:
        thread.join(60)
    assert last == [[6], [6], [6]]
    assert not any(requests.ended for requests in asked)


def test_an_evaluation_ends_after_the_same_batch():
    asked, _ = processes(2)
    for requests in asked:
        for _ in range(3):
            requests.check()
    asked[1].tell(asked[1].phases.now())
    wait_for(lambda: all(requests.until == 4 for requests in asked))
    for requests in asked:
        with pytest.raises(stopping.Interrupted), requests.interruptible():
            requests.check()


@pytest.mark.parametrize("early", [0, 1])
def test_a_process_without_a_step_ends_all_at_once(early):
    asked, _ = processes(2)
    asked[early].phases.enter(phases.COMPILE)
    asked[early].tell(asked[early].phases.now())
    wait_for(lambda: asked[1 - early].ended)
    assert f"process {early} was asked to stop before" in asked[1 - early].ended


@pytest.mark.parametrize("early", [0, 1])
def test_so_does_one_that_hears_of_it_before_its_first_step(early):
    asked, _ = processes(2)
    asked[early].phases.enter(phases.COMPILE)
    asked[1 - early].tell(asked[1 - early].phases.now())
    wait_for(lambda: all(requests.ended for requests in asked))
    assert "before the first step of all" in asked[0].ended


def test_a_hang_of_one_ends_the_others_at_once():
    asked, _ = processes(2)
    asked[0].tell_hang()
    wait_for(lambda: asked[1].ended)
    assert "process 0 hangs" in asked[1].ended and not asked[0].ended


def test_an_error_of_one_ends_the_others_a_little_later(monkeypatch):
    monkeypatch.setattr(agreeing, "ALONE", 0.01)
    asked, store = processes(2)
    asked[1].peers.failed()
    wait_for(lambda: asked[0].ended)
    assert "process 1 ended with an error" in asked[0].ended and not asked[1].ended
    asked[1].peers.failed()  # again: nobody minds
    assert json.loads(store.blocking_key_value_get(agreeing.ASKED, 1))[1] == 1
