"""A page in headless Chromium, driven over a pipe by its DevTools protocol alone."""

import base64
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import time

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60  # seconds for an answer
_READS, _WRITES = 3, 4  # file descriptors of the browser
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Names of keys and the codes that Chromium acts by.
CODES = {
    "Tab": 9,
    "PageUp": 33,
    "PageDown": 34,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


def find():
    """The program, of the variable VIT_JAX_CHROMIUM or on the PATH, or None."""
    named = os.environ.get("VIT_JAX_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one tab.

    Attributes:
        events: What it told without being asked.
    """

    def __init__(self, program, profile):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Out of the way of the numbers that they get.
        high_in, high_out = (
            fcntl.fcntl(p, fcntl.F_DUPFD, 10) for p in (theirs_in, theirs_out)
        )
        moves = [
            (os.POSIX_SPAWN_DUP2, high_in, _READS),
            (os.POSIX_SPAWN_DUP2, high_out, _WRITES),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        arguments = [program, *_FLAGS, f"--user-data-dir={profile}"]
        self._process = os.posix_spawn(
            program, arguments, os.environ, file_actions=moves
        )
        for end in (theirs_in, theirs_out, high_in, high_out):
            os.close(end)
        self._in, self._out, self._rest = ours_in, ours_out, b""
        self._numbers = itertools.count(1)
        self._session = None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self._session = None
        self.call("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)

    def _read(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            assert ready, f"the browser has said nothing for {PATIENCE} s"
            more = os.read(self._in, 1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **params):
        """Calls a method of the protocol; returns its result."""
        message = {"id": next(self._numbers), "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != message["id"]:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def evaluate(self, script):
        """The value of an expression in the page, awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script):
        """Waits until an expression in the page is true; returns it."""
        end = time.monotonic() + PATIENCE
        while not (found := self.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return found

    def show(self, path, *, width=1280, height=900, dark=False, address=""):
        """Opens a file in a window of a size, as a phone where it is narrow."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1 + phone}
        self.call("Emulation.setDeviceMetricsOverride", mobile=phone, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"file://{path}{address}")
        return self.until("document.documentElement?.dataset.drawn ?? ''")

    def key(self, name):
        """Presses a key, "ArrowLeft" or a letter."""
        code = CODES.get(name, 0)
        text = {} if code else {"text": name}
        event = {"key": name, "windowsVirtualKeyCode": code, **text}
        if code:
            event["code"] = name
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, x, y):
        """Clicks at a point of the window."""
        event = {"x": x, "y": y, "button": "left", "clickCount": 1, "buttons": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **event)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **event)

    def screenshot(self):
        """The window as an image."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def complaints(self):
        """Errors and messages of the console, and requests for what is no file."""
        told = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        local = ("file:", "about:", "data:", "blob:")
        away = [url for url in asked if not url.startswith(local)]
        return away + [each for each in self.events if each["method"] in told]
