"""What the processes of a run tell each other beside their collectives.

A process that is asked to stop says so in JAX's key-value store, where threads of all
the others wait for it. They agree on a turn of the loop that none has taken yet, so
that all save the same step; where one of them has not come to its first step there is
nothing to save, and all end at once. JAX's own service for this takes the signal away
from us, and answers in the loop alone.
"""

import json
import logging
import threading
import time
from typing import Any, Protocol

from vit_jax.runs import phases, stopping

ASKED, _TURN, _UNTIL = "vit_jax/asked", "vit_jax/turn", "vit_jax/until"
END, LEFT = "vit_jax/end", "left"
AT_ONCE, AT_A_TURN, FAILED, HANGS = "at once", "at a turn", "failed", "hangs"
ALONE = 3.0  # seconds in which an error of one may turn out to be everybody's
LEAVING = 5.0  # seconds in which all leave, so that none is taken for lost


class Client(Protocol):
    """What is used of `jax._src.distributed.global_state.client`."""

    def key_value_set(self, key: str, value: str) -> None:
        """Sets a key that is not set yet."""
        ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """Waits until a key is set."""
        ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Waits until all processes have come."""
        ...


class Peers:
    """The other processes of a run, as this one tells them and hears of them.

    Args:
        client: Of the key-value store.
        index: Which process this is.
        count: How many there are.
        requests: Of this process; its turns are agreed on.
    """

    def __init__(
        self, client: Client, index: int, count: int, requests: stopping.Requests
    ):
        self._client, self._index, self._count = client, index, count
        self._requests = requests
        requests.tell = self.tell
        requests.tell_hang = self.hang
        requests.on_end.append(lambda: self.leave(LEAVING))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def tell(self, now: phases.Now) -> None:
        """Says that this process was asked to stop."""
        self._ask(AT_ONCE if now.phase in phases.NOTHING_DONE else AT_A_TURN)

    def failed(self) -> None:
        """Says that this process ends with an error: none needs to wait for it."""
        self._ask(FAILED)

    def hang(self) -> None:
        """Says that this process hangs and ends: none waits until it is lost."""
        self._ask(HANGS)
        self.leave(LEAVING)

    def leave(self, seconds: float) -> None:
        """Waits for all to end together; raises what JAX does when they do not."""
        self._client.wait_at_barrier(END, int(1000 * seconds))
        if self._index == 0:
            time.sleep(0.3)  # whoever keeps the store goes last

    def close(self) -> None:
        """Stops listening, once all have come to their end.

        A thread that Python's end finds within the store's code aborts the process.
        """
        self._ask(LEFT)
        self._thread.join(LEAVING)

    def _ask(self, kind: str) -> None:
        try:
            self._client.key_value_set(ASKED, json.dumps([kind, self._index]))
        except Exception as error:  # jaxlib's own: another one was faster
            logging.debug("%s", error)

    def _wait(self, key: str) -> Any:
        """The value of a key, when it is set; waits for ever."""
        while True:
            try:
                found = self._client.blocking_key_value_get(key, 60_000)
                return json.loads(found)
            except Exception as error:  # jaxlib's own
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def _listen(self) -> None:
        try:
            kind, who = self._wait(ASKED)
            name = f"process {who}"
            if kind == AT_A_TURN:
                if who != self._index:
                    logging.warning("%s was asked to stop: all stop", name)
                self._agree(name)
            elif kind == LEFT or who == self._index:
                return  # it ends by itself
            elif kind == AT_ONCE:
                self._requests.end(f"{name} was asked to stop before its first step")
            elif kind == HANGS:
                self._requests.end(f"{name} hangs, see its log")
            else:
                time.sleep(ALONE)
                self._requests.end(f"{name} ended with an error, see its log")
        except Exception as error:  # the store is gone, and so is the run
            logging.debug("%s", error)

    def _agree(self, who: str) -> None:
        """Settles the turn after which all stop; no turn is taken meanwhile."""
        requests = self._requests
        with requests.agreeing:
            early = requests.phases.now().phase in phases.NOTHING_DONE
            mine = None if early else requests.turns
            self._client.key_value_set(f"{_TURN}/{self._index}", json.dumps(mine))
            if self._index == 0:
                turns = [self._wait(f"{_TURN}/{i}") for i in range(self._count)]
                until = None if None in turns else max(turns) + 1
                self._client.key_value_set(_UNTIL, json.dumps(until))
            requests.until = self._wait(_UNTIL)
        if requests.until is None:
            requests.end(f"{who} was asked to stop before the first step of all")
