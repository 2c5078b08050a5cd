"""A headless Chromium driven through its debugging pipe: no port, no further package."""

import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of a headless Chromium; a context manager.

    Attributes
    ----------
    requests : list of str
        Addresses that the page asked for.
    complaints : list of str
        Entries of the console's log (blocked content among them) and uncaught errors.
    """

    def __init__(self, profile, width=1280, height=1600):
        self._commands_out, self._commands_in = os.pipe()
        self._answers_out, self._answers_in = os.pipe()
        self._profile, self._size = profile, (width, height)
        self._number, self._buffer = 0, b""
        self.requests, self.complaints = [], []

    def __enter__(self):
        ends = (self._commands_out, self._answers_in)
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        plumbing = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        size = f"--window-size={self._size[0]},{self._size[1]}"
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._profile}", size, "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", plumbing, "bash", *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = None
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._commands_in)
        os.close(self._answers_out)

    _session = None

    def call(self, method, **params):
        """Send one command and wait for its answer; events on the way are collected."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands_in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._collect(answer)

    def open(self, path):
        """Open a file and wait until it is laid out."""
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 30
        while self.js("document.readyState + location.protocol") != "completefile:":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was not loaded")
            time.sleep(0.05)

    def js(self, expression):
        """Evaluate JavaScript in the page and return its value; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def press(self, key):
        """Press and release one key on the focused element."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _receive(self):
        while b"\0" not in self._buffer:
            if not select.select([self._answers_out], [], [], 60)[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._answers_out, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _collect(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
