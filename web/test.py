"""The page in headless Chromium: what it shows is what the command computes, and what it cannot do it says.

Run by `scripts/web.sh --test`, with the standard library alone.
"""

import argparse
import base64
import functools
import http.server
import json
import math
import pathlib
import struct
import subprocess
import tempfile
import threading

from browser import Browser

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = "Wie spät ist es in Berlin? 日本語も少し。"
GOLDENS = ["rank3", "rank4", "mask", "narrow_in"]
# As in tests/goldens.rs: by the signal, this many times PyTorch's float32 error, and never less than the floor.
YARDSTICKS = 4.0
FLOOR = 1e-6


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that keeps its log to itself."""

    def log_message(self, *_):
        pass


def serve(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def part(path, folder, wanted):
    """A file in a folder that has some of another's tensors."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, kept, blob = json.loads(data[8 : 8 + size]), {}, b""
    for name, entry in header.items():
        if name != "__metadata__" and wanted(name):
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            kept[name] = {**entry, "data_offsets": [len(blob), len(blob) + end - start]}
            blob += data[start:end]
    text = json.dumps(kept).encode()
    written = pathlib.Path(folder) / path.name
    written.write_bytes(struct.pack("<Q", len(text)) + text + blob)
    return written


def golden_files(path, folder):
    """A golden's weights, and its x and lengths: neither may have anything beside."""
    (pathlib.Path(folder) / "x").mkdir()
    weights = part(path, folder, lambda name: "." in name)
    return weights, part(path, pathlib.Path(folder) / "x", lambda name: name in ("x", "lengths"))


def tensors(data):
    """The numbers of a safetensors file, by name."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    kinds = {"F32": "f", "F64": "d", "I64": "q", "U32": "I"}
    read = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + size + at for at in entry["data_offsets"])
        kind = kinds[entry["dtype"]]
        read[name] = struct.unpack(f"<{(end - start) // struct.calcsize(kind)}{kind}", data[start:end])
    return read


def by_signal(y, other, golden):
    """The distance of two results relative to the signal of the golden: y without what all tokens share."""
    d = golden["d"]
    signal = math.sqrt(sum((exact - d[at % len(d)]) ** 2 for at, exact in enumerate(golden["y"])))
    assert len(y) == len(other) == len(golden["y"]), (len(y), len(other), len(golden["y"]))
    return math.dist(y, other) / signal


class Test:
    """One page in one browser, and the command beside it."""

    def __init__(self, arguments, browser, address):
        self.arguments, self.browser, self.address = arguments, browser, address

    def command(self, *arguments):
        ran = subprocess.run([self.arguments.command, *arguments], capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)

    def open(self):
        self.browser.open(self.address)
        state = self.browser.wait("return document.body?.dataset.state")
        return state, self.browser.text("#adapter")

    def finished(self, status, result):
        """Waits for a piece of work: its result, or the line that says what is wrong."""
        done = self.browser.wait(
            f"const [status, shown] = ['{status}', '{result}'].map((part) => document.querySelector(part));"
            "const bad = status.classList.contains('bad');"
            "if (bad || (status.textContent === '' && shown.result)) return { bad, line: status.textContent, result: shown.result };"
        )
        self.browser.script(f"delete document.querySelector('{result}').result")
        return done

    def told(self):
        done = self.finished("#told-status", "#told")
        assert not done["bad"], done
        return done["result"]

    def is_what_the_command_tells(self):
        self.browser.type("#text", TEXT)
        self.browser.click("#tell button")
        told = self.told()
        native = self.command("demo", "--text", TEXT, "--json")
        assert [guess["label"] for guess in told["guesses"][:1]] == [guess["label"] for guess in native["guesses"][:1]]
        there = {guess["label"]: guess["probability"] for guess in native["guesses"]}
        # Both are within the bound, which the page checks; twice as far apart at most. Scores are sums of y over the text.
        check = told["evaluation"]["check"]
        assert check["passed"] and check["error"] <= check["allowed"], check
        worst = max(abs(guess["probability"] - there[guess["label"]]) for guess in told["guesses"])
        apart = max(abs(ours - theirs) / theirs for ours, theirs in zip(told["w"], native["w"], strict=True))
        assert worst <= 1e-5 and apart <= 1e-5, (worst, apart)
        assert "".join(character for character, _, _ in told["characters"]) == TEXT == self.browser.script(
            "return document.querySelector('#heat').textContent"
        )
        print(f"text: probabilities within {worst:.1e} of the command's on {native['adapter']['name']}, weights within {apart:.1e}")
        print(f"      error {check['error']:.2e} of the signal, allowed {check['allowed']:.2e}; {told['evaluation']['median'] * 1e3:.2f} ms")

    def works_by_keyboard(self):
        self.browser.clear("#text")
        self.browser.type("#text", "A short text.\ue007")
        assert len(self.told()["characters"]) == len("A short text.")

    def refuses_no_text(self):
        self.browser.clear("#text")
        self.browser.click("#tell button")
        assert self.finished("#told-status", "#told")["line"] == "Type a text first."

    def files(self, weights, x):
        self.browser.type("#weights", str(weights))
        self.browser.type("#input", str(x))
        self.browser.click("#forward button")
        return self.finished("#ran-status", "#ran")

    def computes_the_goldens(self):
        recorded = {golden["name"]: golden for golden in json.loads((ROOT / "tests/goldens/goldens.json").read_text())}
        for name in GOLDENS:
            path = ROOT / f"tests/goldens/{name}.safetensors"
            with tempfile.TemporaryDirectory() as folder:
                weights, x = golden_files(path, folder)
                done = self.files(weights, x)
                assert not done["bad"] and done["result"]["check"]["passed"], done
                encoded = self.browser.script(
                    "return fetch(document.querySelector('#download').href).then((answer) => answer.arrayBuffer())"
                    ".then((file) => btoa(String.fromCharCode(...new Uint8Array(file))))"
                )
                ours = tensors(base64.b64decode(encoded))
                output = pathlib.Path(folder) / "y.safetensors"
                self.command("forward", "--weights", weights, "--input", x, "--output", output, "--json")
                native = tensors(output.read_bytes())
            golden = tensors(path.read_bytes())
            allowed = max(YARDSTICKS * recorded[name]["pytorch_error"]["y"], FLOOR)
            error, apart = by_signal(ours["y"], golden["y"], golden), by_signal(ours["y"], native["y"], golden)
            assert error <= allowed and apart <= 2 * allowed, (name, error, apart, allowed)
            print(f"golden {name}: error {error:.2e} of the signal, {apart:.2e} from the command's; allowed {allowed:.2e}")

    def refuses_wrong_files(self):
        golden = ROOT / "tests/goldens/rank3.safetensors"
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            weights, x = golden_files(golden, folder)
            _, other_x = golden_files(ROOT / "tests/goldens/rank4.safetensors", other)
            done = self.files(weights, ROOT / "README.md")
            assert done["bad"] and done["line"].startswith("README.md: not safetensors"), done
            done = self.files(weights, other_x)
            assert done["bad"] and "x is [" in done["line"] and "embedding.weight is [" in done["line"], done
            print(f"wrong file: {done['line']}")
            done = self.files(golden, x)
            assert done["bad"] and "may change the result, and are not read" in done["line"], done
            # What was refused leaves the page usable.
            assert not self.files(weights, x)["bad"]

    def checks(self):
        for part, kernel in [("reduce", "reduce"), ("softmax", "softmax"), ("matmul 9x33x5", "matmul")]:
            self.browser.clear("#filter")
            self.browser.type("#filter", part)
            self.browser.click("#check button")
            done = self.finished("#check-status", "#checks")
            assert not done["bad"], done
            result = done["result"]
            assert result["count"] == result["done"] == result["passed"] > 0, (kernel, result, self.browser.text("#checks"))
            print(f"check {part}: {result['passed']} of {result['count']} passed, the worst at {result['worst']:.3f} of its bound")

    def takes_pictures(self):
        folder = pathlib.Path(self.arguments.pictures)
        folder.mkdir(parents=True, exist_ok=True)
        for name, width, dark in [("wide", 920, False), ("dark", 920, True), ("narrow", 390, False)]:
            self.browser.screen(width, 900, dark, scale=1 if width > 600 else 2)
            self.browser.picture(folder / f"{name}.png")
            wider = self.browser.script("return document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0, f"{name}: {wider} pixels wider than the screen"

    def says_what_is_missing(self):
        for script, said in [
            ("Object.defineProperty(navigator, 'gpu', { value: undefined })", "This browser has no WebGPU."),
            ("navigator.gpu.requestAdapter = async () => null", "no GPU it would use"),
        ]:
            added = self.browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=script)
            state, line = self.open()
            assert state == "refused" and said in line, (state, line)
            disabled = self.browser.script("return [...document.querySelectorAll('form button:not([type=button])')].every((button) => button.disabled)")
            assert disabled
            self.browser.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])

    def wrote_no_errors(self):
        errors = [entry["message"] for entry in self.browser.console() if entry["level"] == "SEVERE"]
        assert not errors, errors


def main():
    parser = argparse.ArgumentParser()
    for name in ["page", "chromium", "driver", "command", "pictures"]:
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    with Browser(arguments.driver, arguments.chromium) as browser:
        test = Test(arguments, browser, serve(arguments.page))
        test.says_what_is_missing()
        state, line = test.open()
        assert state == "ready", line
        print(f"Chromium {browser.version}: {line}")
        test.is_what_the_command_tells()
        test.works_by_keyboard()
        test.refuses_no_text()
        test.computes_the_goldens()
        test.refuses_wrong_files()
        test.checks()
        browser.clear("#text")
        browser.click("#samples button:nth-child(7)")
        test.told()
        test.takes_pictures()
        test.wrote_no_errors()


main()
