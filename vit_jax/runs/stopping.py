"""SIGTERM and Ctrl-C as a request to stop, answered at once even inside a long step.

Python runs signal handlers between two of its own instructions, and a step on a slow
device is one call that may take minutes. The kernel's wake-up descriptor tells a thread
in the meantime, which says what is being waited for.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from vit_jax import errors

REPEAT = 25.0  # seconds between two lines; most schedulers kill after 30
INSIST = 5.0  # seconds after which a second SIGTERM is no echo of the first


class Interrupted(BaseException):
    """Raised in what may be cut short: an evaluation.

    At any instruction of it, so that it must pass every `except Exception`.
    """


class Requests:
    """Whether this process was asked to stop.

    Args:
        doing: says what is under way, as in "step 7, for 12 s".
    """

    def __init__(self, doing: Callable[[], str]):
        self._doing = doing
        self._received = False
        self._interruptible = False

    def __bool__(self) -> bool:
        return self._received

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collects signals in the body; only the main thread can, others do not."""
        if threading.current_thread() is not threading.main_thread():
            logging.info("no signal handler outside the main thread")
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._answer, args=(read,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, action in previous.items():
                signal.signal(number, action)
            os.close(write)
            thread.join()
            os.close(read)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Runs a body that a request ends with `Interrupted`."""
        if self._received:
            raise Interrupted
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: object) -> None:
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interruptible:
            self._interruptible = False
            raise Interrupted

    def _answer(self, read: int) -> None:
        """Reads signal numbers until the other end is closed."""
        first: float | None = None
        while True:
            timeout = None if first is None else REPEAT
            if select.select([read], [], [], timeout)[0]:
                numbers = os.read(read, 64)
                if not numbers:
                    return
                if not {signal.SIGTERM, signal.SIGINT} & set(numbers):
                    continue
                insists = first and time.monotonic() - first > INSIST
                if insists and signal.SIGTERM in numbers:
                    self._end()
                first = first or time.monotonic()
            logging.warning(
                "asked to stop: waiting for %s, then it saves; a second SIGTERM ends "
                "it at once, without saving",
                self._doing(),
            )

    def _end(self) -> None:
        print(
            f"stopped: asked to stop twice, during {self._doing()}; nothing saved "
            "since the newest checkpoint. Run the same command again to go on from it",
            file=sys.__stderr__,
            flush=True,
        )
        os._exit(errors.EXIT_RETRY)
