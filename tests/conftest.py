"""Fixtures and options of all tests."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import os
import runpy
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from attendet.inference import Runtime
from attendet.models.metadata import WeightsMetadata

# Machines differ in speed, so no deadline; in continuous integration the same examples each time.
settings.register_profile("attendet", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("attendet")

SIMULATED_CPU = Path(__file__).resolve().parent / "simulated_cpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a simulated CPU."""
    group = parser.getgroup("attendet")
    group.addoption(
        "--simulate-cpu",
        choices=("avx2", "bf16"),
        help="instructions that attendet sees: AVX2 alone, or AVX-512 with VNNI and bfloat16",
    )
    group.addoption("--simulate-cores", type=int, help="number of cores that Python reports")


def pytest_configure(config: pytest.Config) -> None:
    """Set up the simulated CPU for this process and all that tests start.

    With ``avx2`` PyTorch and oneDNN use no AVX-512 (nor VNNI and bfloat16) either. ``bf16`` and a
    number of cores change only what attendet reads; other libraries are not limited. ONNX Runtime
    cannot be limited.
    """
    cpu, cores = config.getoption("--simulate-cpu"), config.getoption("--simulate-cores")
    if cpu is None and cores is None:
        return
    if cpu == "avx2":
        os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2")
    if cpu is not None:
        os.environ["ATTENDET_TEST_CPUINFO"] = str(SIMULATED_CPU / f"{cpu}.txt")
    if cores is not None:
        os.environ["ATTENDET_TEST_CORES"] = str(cores)
    folders = [str(SIMULATED_CPU), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    runpy.run_path(str(SIMULATED_CPU / "sitecustomize.py"))


SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder.relative_to(SHARED.parent)} beside the repository")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of published evaluator cases beside the repository."""
    return _shared("cases")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in YOLO layout: ten training and four validation images of colored squares."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}{number:02}"
            height, width = (int(side) for side in rng.integers(64, 97, 2))
            image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            lines = []
            for class_id in rng.integers(0, 2, 2).tolist():
                side = int(rng.integers(14, 30))
                x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
                image[y : y + side, x : x + side] = ((230, 60, 40), (40, 220, 90))[class_id]
                center = f"{(x + side / 2) / width} {(y + side / 2) / height}"
                lines.append(f"{class_id} {center} {side / width} {side / height}\n")
            Image.fromarray(image).save(root / "images" / split / f"{name}.png")
            (root / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [red, green]\n", encoding="utf-8"
    )
    return root


@pytest.fixture
def use_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set the fonts that are tried after Pillow's own; none are those of a machine without any."""
    from attendet.report import draw, fonts

    def forget() -> None:
        fonts._find_font.cache_clear()
        draw.text_mask.cache_clear()

    def use(*files: object) -> None:
        monkeypatch.setattr(fonts, "_candidates", lambda: files)
        forget()

    yield use
    forget()


def _moving_square(number: int, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    image = np.zeros((height, width, 3), dtype=np.uint8)
    left = (4 * number) % (width - 24)
    image[20:44, left : left + 24] = 255
    return image


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Make a video of a white square that moves 4 pixels to the right a frame, on black."""
    av = pytest.importorskip("av")

    def make(
        name: str = "street.mp4",
        frames: int = 12,
        image_hw: tuple[int, int] = (64, 96),
        times: Sequence[float] | None = None,
        options: dict[str, str] | None = None,
        codec: str = "libx264",
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        clock = Fraction(1, 90_000) if times is not None else Fraction(1, 25)
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = image_hw
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = clock
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(_moving_square(number, image_hw), "rgb24")
                frame.pts = number if times is None else round(times[number] / clock)
                frame.time_base = clock
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


class CameraServer:
    """A network camera on loopback: motion JPEG over HTTP, which can be broken and mended.

    Attributes:
        per_connection: frames after which the line breaks; None: never.
        is_down: whether it turns everyone away.
        pause: seconds between two frames.
        connections: how often somebody came.
    """

    def __init__(self) -> None:
        self.per_connection: int | None = None
        self.is_down = False
        self.pause = 0.02
        self.connections = 0
        self.sent = 0
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                if camera.is_down:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=edge")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    camera.send(self.wfile)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/live.mjpg"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def send(self, stream: IO[bytes]) -> None:
        """Send frames until the line breaks."""
        sent = 0
        while not self.is_down and (self.per_connection is None or sent < self.per_connection):
            image = Image.fromarray(_moving_square(self.sent, (64, 96)))
            packed = io.BytesIO()
            image.save(packed, "JPEG")
            jpeg = packed.getvalue()
            head = f"--edge\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            stream.write(head.encode() + jpeg + b"\r\n")
            sent += 1
            self.sent += 1
            time.sleep(self.pause)

    def close(self) -> None:
        """Take it from the net."""
        self.is_down = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def camera_server() -> Iterator[CameraServer]:
    """A network camera on loopback."""
    server = CameraServer()
    yield server
    server.close()


# --- exported files ------------------------------------------------------------------------------


def _tiny_network() -> tuple[Any, Any]:
    """A small network whose scores are spread over 0 to 1, and its description."""
    torch = pytest.importorskip("torch")
    from attendet.models import WeightsMetadata, build_from_metadata

    metadata = WeightsMetadata(
        classes=("cat", "dog", "cow"), attention="se", width_mult=0.125, input_hw=(96, 96)
    )
    torch.manual_seed(0)
    network = build_from_metadata(metadata).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    heads = (network.out_p5, network.out_p4)
    with torch.no_grad():
        for head, raw_map in zip(heads, network(torch.rand(4, 3, 96, 96)), strict=True):
            head.weight.mul_(1.5 / (raw_map - head.bias[:, None, None]).std())
            head.bias.zero_()
    return network, metadata


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small network as files of every kind: weights, and what an export would write.

    ``fixed`` is an ONNX file of one image of 64 x 96; ``best`` gives the 60 best boxes above 0.4
    as ``detections``, as a file with suppression inside would.
    """
    torch = pytest.importorskip("torch")
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    from attendet.models import ExportInfo, save_weights

    folder = tmp_path_factory.mktemp("exported")
    network, metadata = _tiny_network()
    paths = {"torch": save_weights(folder / "w.safetensors", network, metadata)}

    class Whole(torch.nn.Module):
        def __init__(self, best: int | None = None) -> None:
            super().__init__()
            self.network, self.best = network, best

        def forward(self, images: Any) -> Any:
            planes = images.permute(0, 3, 1, 2).float() / 255
            boxes, scores = self.network.decode(self.network(planes))
            if self.best is None:
                return boxes, scores
            score, class_ids = scores.max(dim=2)
            score, rows = score.topk(self.best, dim=1)
            boxes = boxes.gather(1, rows.unsqueeze(2).expand(-1, -1, 4))
            class_ids = torch.where(score > 0.4, class_ids.gather(1, rows), -1)
            columns = (score * (score > 0.4), class_ids.float())
            return torch.cat([boxes, torch.stack(columns, dim=2)], dim=2)

    example = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    plain, free = ["boxes_xyxy", "scores"], {"images": {0: "n", 1: "h", 2: "w"}}
    for name, module, count, axes in (
        ("onnx", Whole(), 2, free),
        ("fixed", Whole(), 1, {}),
        ("best", Whole(60), 2, {"images": {0: "n"}}),
    ):
        paths[name] = folder / f"{name}.onnx"
        info = ExportInfo("onnx", dynamic=("batch", "size") if axes is free else ())
        if name == "best":
            info = ExportInfo("onnx", nms=True, confidence=0.4, nms_iou=0.6, max_detections=60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                (example[:count],),
                str(paths[name]),
                dynamo=False,
                input_names=["images"],
                dynamic_axes=axes,
                output_names=["detections"] if name == "best" else plain,
            )
        model = onnx.load(str(paths[name]))
        onnx.helper.set_model_props(model, metadata.to_header() | info.to_header())
        onnx.save(model, str(paths[name]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Whole().eval(), (example,), check_trace=False)
        header = (
            metadata.to_header() | ExportInfo("torchscript", dynamic=("batch", "size")).to_header()
        )
        paths["torchscript"] = folder / "w.torchscript"
        torch.jit.save(
            traced, str(paths["torchscript"]), _extra_files={"attendet.json": json.dumps(header)}
        )
    model = openvino.Core().read_model(paths["onnx"])
    header = metadata.to_header() | ExportInfo("openvino", dynamic=("batch", "size")).to_header()
    for key, text in header.items():
        model.set_rt_info(text, ["attendet", key])
    paths["openvino"] = folder / "w_openvino"
    paths["openvino"].mkdir()
    openvino.save_model(model, paths["openvino"] / "model.xml", compress_to_fp16=False)
    return paths


# --- a detector without a network -----------------------------------------------------------------

Scene = Callable[..., NDArray[np.uint8]]


class BrightRuntime(Runtime):
    """Boxes the pixels above 200 of the first channel; two more boxes are far outside."""

    def __init__(self, **fields: object) -> None:
        self.metadata = WeightsMetadata(classes=("cat", "dog"), **fields)  # type: ignore[arg-type]
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert inputs.dtype == np.uint8
        self.shapes.append(inputs.shape)
        boxes = np.full((len(inputs), 3, 4), 1e6, dtype=np.float32)
        scores = np.zeros((len(inputs), 3, 2), dtype=np.float32)
        for index, padded in enumerate(inputs):
            rows, columns = np.nonzero(padded[:, :, 0] > 200)
            if len(rows):
                boxes[index, 1] = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                scores[index, 1] = [0.3, 0.9]
            scores[index, 2] = 0.99
        return boxes, scores


@pytest.fixture
def bright() -> type[BrightRuntime]:
    return BrightRuntime


@pytest.fixture
def scene() -> Scene:
    """Make a dark image with one bright rectangle."""

    def make(
        image_hw: tuple[int, int] = (480, 640), box: Sequence[int] = (100, 50, 300, 250)
    ) -> NDArray[np.uint8]:
        image = np.zeros((*image_hw, 3), dtype=np.uint8)
        left, top, right, bottom = box
        image[top:bottom, left:right] = 255
        return image

    return make


@pytest.fixture
def folder(tmp_path: Path, scene: Scene) -> Path:
    """A folder with images a.png, b.jpg, c.png, a truncated d.jpg and a text file."""
    made = tmp_path / "shots"
    made.mkdir()
    Image.fromarray(scene()).save(made / "a.png")
    Image.fromarray(scene((300, 200), (20, 30, 120, 130))).save(made / "b.jpg")
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(made / "c.png")
    whole = (made / "b.jpg").read_bytes()
    (made / "d.jpg").write_bytes(whole[: len(whole) // 2])
    (made / "notes.md").write_text("no image")
    return made


# --- a real browser ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium with a camera that shows a test card."""
    webdriver = pytest.importorskip("selenium.webdriver")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium or Chrome, and chromedriver, on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400"),
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


class DetectorPage:
    """The page of a detector in the browser, driven by its controls."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        """Open the page, unless it is open, and wait until the detector is ready."""
        if self.browser.current_url == url and not self.problem:
            return
        self.load(url)
        self.wait_for_text("status", "Ready")

    def load(self, url: str) -> None:
        """Open the page and forget earlier logs."""
        for log in ("performance", "browser"):
            self.browser.get_log(log)
        self.browser.get(url)

    @property
    def problem(self) -> str:
        """The error that the page shows, or nothing."""
        found = self.browser.find_elements("css selector", ".status.bad")
        return str(found[0].text) if found else ""

    def wait_for_problem(self) -> str:
        """Wait for an error and return it."""
        from selenium.webdriver.support.wait import WebDriverWait

        return str(WebDriverWait(self.browser, 30).until(lambda _: self.problem))

    def text(self, element: str) -> str:
        """Return the text of an element."""
        return str(self.browser.find_element("id", element).get_attribute("textContent"))

    def wait_for_text(self, element: str, text: str) -> None:
        """Wait until an element contains a text; an error of the page ends the wait."""
        from selenium.webdriver.support.wait import WebDriverWait

        def shown(_: object) -> bool:
            if self.problem:
                raise AssertionError(self.problem)
            return text in self.text(element)

        WebDriverWait(self.browser, 30).until(shown)

    def upload(self, path: Path) -> None:
        """Open an image file and wait for its detections."""
        self.browser.execute_script("document.getElementById('timing').textContent = ''")
        self.browser.find_element("id", "file").send_keys(str(path))
        self.wait_for_text("timing", "network")

    def set_slider(self, name: str, value: float) -> None:
        """Move a slider."""
        self.browser.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input'))",
            name,
            value,
        )

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of an asynchronous function in the page and return its value."""
        code = (
            "const done = arguments[arguments.length - 1];"
            "(async function() {" + script + "}).apply(null, arguments)"
            ".then(done, error => done(String(error)))"
        )
        return self.browser.execute_async_script(code, *arguments)

    def requests(self) -> set[str]:
        """Return the addresses requested since the page was loaded, or the last call."""
        logs = self.browser.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in logs]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }

    def complaints(self) -> list[str]:
        """Return the errors in the browser's log since the page was loaded, or the last call."""
        logs = self.browser.get_log("browser")
        return [entry["message"] for entry in logs if entry["level"] == "SEVERE"]

    def saved(self, button: str) -> bytes:
        """Click a button that saves a file and return the content of the file."""
        url = self.run(
            """const before = URL.createObjectURL;
            const saved = new Promise(resolve => {
                URL.createObjectURL = blob => { resolve(blob); return 'about:blank#'; };
            });
            HTMLAnchorElement.prototype.click = () => {};
            document.getElementById(arguments[0]).click();
            const reader = new FileReader();
            const read = new Promise(resolve => { reader.onload = () => resolve(reader.result); });
            reader.readAsDataURL(await saved);
            URL.createObjectURL = before;
            return await read;""",
            button,
        )
        return base64.b64decode(url.partition(",")[2])

    def saved_json(self) -> dict[str, Any]:
        """Save JSON and return the entry of the image."""
        (entry,) = json.loads(self.saved("save-json"))["images"]
        return dict(entry)


@pytest.fixture(scope="session")
def detector_page(browser: Any) -> DetectorPage:
    """The page of a detector in the browser."""
    return DetectorPage(browser)


Route = Callable[[http.server.BaseHTTPRequestHandler], None]


class FileServer:
    """A web server on the loopback address; ``routes`` says what each path answers."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if self.path in outer.routes:
                    outer.routes[self.path](self)
                else:
                    self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def give(self, path: str, body: bytes, *, length: int | str | None = "true") -> str:
        def route(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            if length is not None:
                handler.send_header(
                    "Content-Length", str(len(body) if length == "true" else length)
                )
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = route
        return self.url + path

    def redirect(self, path: str, target: str) -> str:
        def route(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.end_headers()

        self.routes[path] = route
        return self.url + path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Web server on the loopback address."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = FileServer()
    yield running
    running.close()
