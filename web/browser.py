"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver) with the standard library alone."""

import base64
import json
import pathlib
import subprocess
import tempfile
import time
import urllib.request

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
]
# The key under which WebDriver names an element.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A session of its own, with an empty profile; to be used in a `with`."""

    def __init__(self, chromedriver, chromium, flags=FLAGS):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        self.log = (folder / "log").open("w+")
        self.driver = subprocess.Popen([chromedriver, "--port=0"], stdout=self.log, stderr=subprocess.STDOUT)
        self.session = None
        try:
            self.address = f"http://127.0.0.1:{self._port()}"
            options = {
                "binary": chromium,
                "args": [*flags, f"--user-data-dir={folder / 'profile'}", "--window-size=1200,900"],
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = made["sessionId"]
            self.version = made["capabilities"]["browserVersion"]
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            if self.session is not None:
                self._call("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.log.close()
            self.folder.cleanup()

    def _port(self):
        for _ in range(200):
            text = pathlib.Path(self.log.name).read_text()
            if "on port " in text.rpartition("successfully")[2]:
                return int(text.rpartition("on port ")[2].split(".")[0])
            if self.driver.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"chromedriver did not start: {pathlib.Path(self.log.name).read_text()}")

    def _call(self, method, path, body=None):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise RuntimeError(f"{value['error']}: {value['message'].splitlines()[0]}") from None

    def _post(self, path, body=None):
        return self._call("POST", f"/session/{self.session}{path}", body)

    def devtools(self, command, **parameters):
        """One command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, address):
        self._post("/url", {"url": address})

    def script(self, body, *arguments):
        """What a function with this body returns."""
        return self._post("/execute/sync", {"script": body, "args": list(arguments)})

    def wait(self, body, seconds=120):
        """What a function with this body returns as soon as it returns something."""
        until = time.monotonic() + seconds
        while True:
            value = self.script(body)
            if value:
                return value
            if time.monotonic() > until:
                raise RuntimeError(f"after {seconds} s still not: {body}; the page says: {self.text('main')}")
            time.sleep(0.05)

    def element(self, selector):
        return self._post("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def text(self, selector):
        return self._call("GET", f"/session/{self.session}/element/{self.element(selector)}/text")

    def type(self, selector, text):
        """Types into an element; into a file input, the paths of files."""
        self._post(f"/element/{self.element(selector)}/value", {"text": text})

    def clear(self, selector):
        self._post(f"/element/{self.element(selector)}/clear")

    def click(self, selector):
        self._post(f"/element/{self.element(selector)}/click")

    def keys(self, *keys):
        """Presses and lets go of keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def console(self):
        """What the page wrote to the console since the last call."""
        return self._post("/se/log", {"type": "browser"})

    def screen(self, width, height, dark=False, scale=1):
        """Shows the page on a screen of this size, in light or dark colours."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path):
        """Writes the whole page, beyond what the screen shows, as a PNG file."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, fromSurface=True)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))
