"""The JSON interface: results, order, limits, errors of one line."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from attendet.errors import ConfigError
from attendet.inference import Detector
from attendet.web import app as web_app
from attendet.web.app import create_app
from attendet.web.limits import ServeLimits


def png(width: int = 64, height: int = 48) -> bytes:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[10:30, 20:50] = 255
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "PNG")
    return packed.getvalue()


def ask(app: Any, *calls: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Send requests at once, in this order; return their answers."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return list(
                await asyncio.gather(
                    *(client.request(method, path, **more) for method, path, more in calls)
                )
            )

    return asyncio.run(send())


def post(app: Any, path: str, body: bytes = b"") -> httpx.Response:
    return ask(app, ("POST", path, {"content": body}))[0]


@pytest.fixture
def detector(bright: Any) -> Detector:
    """Finds one dog (0.9) in the white rectangle."""
    return Detector(bright(input_hw=(64, 64)))


@pytest.fixture
def app(detector: Detector) -> Any:
    return create_app(detector, name="street")


def test_predict_returns_the_detections_of_the_detector(app: Any, detector: Detector) -> None:
    answer = post(app, "/predict", png())

    assert answer.status_code == 200
    found = answer.json()
    assert found["image_hw"] == [48, 64]
    assert found["detections"] == detector.predict(png()).to_dicts()
    assert [one["name"] for one in found["detections"]] == ["dog"]
    assert found["detections"][0]["box_xyxy"] == [20, 10, 50, 30]
    assert set(found["milliseconds"]) == {"wait", "read", "network"}


def test_thresholds_and_classes_are_parameters(app: Any) -> None:
    assert post(app, "/predict?confidence=0.95", png()).json()["detections"] == []
    assert post(app, "/predict?only=cat", png()).json()["detections"] == []
    assert len(post(app, "/predict?only=cat&only=dog&nms_iou=0.3", png()).json()["detections"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"", 400, "body must be an image file; got nothing."),
        ("/predict", b"text", 400, "image cannot be read (image): "),
        ("/predict", png()[:80], 400, "image is truncated or broken (image): "),
        ("/predict?only=dgo", png(), 400, "Did you mean 'dog'?"),
        ("/predict?confidence=2", png(), 422, "confidence: "),
        ("/predict?max_detections=x", png(), 422, "max_detections: "),
        ("/predict?confidense=0.5", png(), 400, "Did you mean 'confidence'?"),
        ("/gates", png(), 404, "Not Found."),
        ("/model.json", png(), 405, "Method Not Allowed."),
    ],
)
def test_errors_are_one_line(app: Any, path: str, body: bytes, status: int, message: str) -> None:
    answer = post(app, path, body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_form_is_refused_with_what_to_do(app: Any) -> None:
    form = {"files": {"file": ("a.png", png(), "image/png")}}
    (answer,) = ask(app, ("POST", "/predict", form))

    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "body must be an image file; got a form. Send the bytes of the file, as "
        "curl --data-binary @FILE does."
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_video_is_refused_with_what_to_do(
    app: Any, make_video: Callable[..., Path], name: str
) -> None:
    answer = post(app, "/predict", make_video(name).read_bytes())

    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "image cannot be read (image): the file is a video. Pass its frames one by one, or run: "
        "attendet predict WEIGHTS VIDEO"
    )


def test_an_unexpected_error_says_nothing_of_the_server(
    app: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(detector, "predict", fail)

    answer = post(app, "/predict", png())

    assert answer.status_code == 500
    assert answer.json() == {"error": "RuntimeError; see the log of the server."}


def test_a_client_that_gives_up_is_no_error_of_the_server(app: Any) -> None:
    parts = iter(({"type": "http.request", "body": b"x", "more_body": True}, None))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(parts) or {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(app({**scope, "query_string": b""}, receive, send))

    assert sent[0]["status"] == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_is_refused(detector: Detector, chunked: bool) -> None:
    app = create_app(detector, name="x", limits=ServeLimits(max_upload=0.001))

    async def parts() -> Any:
        for _ in range(3):
            yield b"x" * 500

    assert post(app, "/predict", b"x" * 1000).status_code == 400  # no image, but not too large
    content = parts() if chunked else b"x" * 1001
    (answer,) = ask(app, ("POST", "/predict", {"content": content}))

    assert answer.status_code == 413
    assert answer.json()["error"] == "image must be at most 0.001 MB; got more. Scale it down."


def test_an_upload_that_does_not_arrive_is_given_up(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_app, "UPLOAD_SECONDS", 0.05)

    async def slow() -> Any:
        yield b"x"
        await asyncio.sleep(5)

    (answer,) = ask(app, ("POST", "/predict", {"content": slow()}))

    assert answer.status_code == 413
    assert "must arrive within 0.05 seconds" in answer.json()["error"]


def test_fifty_requests_at_once_are_answered_in_order(detector: Detector) -> None:
    app = create_app(detector, name="x")
    answered: list[int] = []

    async def send() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def one(number: int) -> None:
                answer = await client.post("/predict", content=png(64 + number))
                answered.append(answer.json()["image_hw"][1] - 64)

            await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(send())

    assert answered == list(range(50))
    widths = [shape[2] for shape in detector.runtime.shapes]  # type: ignore[attr-defined]
    assert len(widths) == 50


def test_more_requests_than_allowed_are_refused_and_later_ones_are_not(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(detector, name="x", limits=ServeLimits(max_waiting=3))
    release = threading.Event()
    predict = detector.predict

    def waits(*arguments: Any, **more: Any) -> Any:
        release.wait(10)
        return predict(*arguments, **more)

    monkeypatch.setattr(detector, "predict", waits)
    threading.Timer(0.2, release.set).start()

    answers = ask(app, *[("POST", "/predict", {"content": png()})] * 5)

    assert sorted(one.status_code for one in answers) == [200, 200, 200, 503, 503]
    refused = next(one for one in answers if one.status_code == 503)
    assert refused.json()["error"] == (
        "waiting requests must be at most 3; got one more. Try again in a moment."
    )
    assert post(app, "/predict", png()).status_code == 200


def test_limits_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match=r"max_upload must be above 0; got 0 \(--max-upload\)"):
        ServeLimits(max_upload=0)
    with pytest.raises(ConfigError, match=r"max_waiting must be 1 or more"):
        ServeLimits(max_waiting=0)


def test_only_the_files_of_the_page_are_served(app: Any) -> None:
    paths = ["/", "/style.css", "/icon.svg", "/model.json", "/openapi.json"]
    paths += [f"/app/{name}.js" for name in ("main", "draw", "files", "frames", "remote")]
    for path in paths:
        (answer,) = ask(app, ("GET", path, {}))
        assert answer.status_code == 200, path
    here = Path(__file__).resolve()
    for path in (
        *("/app/", "/app/main", "/app/resize.js", "/docs", "/redoc", "/index.html"),
        *(f"/app/..{here}", f"//{here}", "/app/%2e%2e/app.py", "/app/..%2f..%2fapp.py"),
    ):
        (answer,) = ask(app, ("GET", path, {}))
        assert answer.status_code == 404, path


def test_the_description_names_what_the_page_needs(app: Any) -> None:
    (answer,) = ask(app, ("GET", "/model.json", {}))
    model = answer.json()

    assert model["name"] == "street"
    assert model["classes"] == ["cat", "dog"]
    assert model["server"] == {"runtime": "BrightRuntime", "gates": [], "max_upload": 20.0}
    assert model["limits"] == {"min_confidence": 0, "max_nms_iou": 1}


def test_openapi_describes_the_interface_and_refers_to_no_other_host(app: Any) -> None:
    (answer,) = ask(app, ("GET", "/openapi.json", {}))
    schema = answer.json()

    assert list(schema["paths"]) == ["/predict"]
    operation = schema["paths"]["/predict"]["post"]
    assert {one["name"] for one in operation["parameters"]} == set(web_app.PARAMETERS)
    assert operation["requestBody"]["content"]["image/*"]["schema"]["format"] == "binary"
    assert "http" not in answer.text.replace("HTTPValidationError", "")


@pytest.fixture
def attentive(tmp_path: Path) -> Callable[[str], Path]:
    """Make weights with attention."""
    torch = pytest.importorskip("torch")
    from attendet.models import WeightsMetadata, build_from_metadata, save_weights

    def make(attention: str) -> Path:
        torch.manual_seed(0)
        metadata = WeightsMetadata(
            ("a", "b"), attention=attention, width_mult=0.125, input_hw=(64, 64)
        )
        return save_weights(tmp_path / "w.safetensors", build_from_metadata(metadata), metadata)

    return make


def test_gates_are_read_at_the_input_size_of_the_server(attentive: Callable[[str], Path]) -> None:
    from attendet.web.gates import GateReader

    weights = attentive("se@p5")
    (own,), (larger,) = (
        GateReader(weights, "cpu", input_hw).read(np.full((320, 320, 3), 90, np.uint8))
        for input_hw in (None, (320, 320))
    )

    assert (own["low"], own["high"]) != (larger["low"], larger["high"])


def test_gates_are_those_that_the_network_applies(attentive: Callable[[str], Path]) -> None:
    import attendet
    from attendet.explain import explain
    from attendet.web.gates import GateReader

    weights = attentive("ca@p4+se@p5")
    reader = GateReader(weights, "cpu")
    app = create_app(attendet.load(weights), name="w", gates=reader)

    answer = post(app, "/gates", png())

    found = {one["site"]: one for one in answer.json()["gates"]}
    assert reader.sites == list(found)
    assert {site: one["kind"] for site, one in found.items()} == {"p4": "map", "p5": "channels"}
    (model,) = ask(app, ("GET", "/model.json", {}))
    assert model.json()["server"]["gates"] == reader.sites
    path = weights.with_name("image.png")
    path.write_bytes(png())
    expected = explain(weights, [path], cam=False, device="cpu").images[0].gates["p5"]["channel"]
    assert found["p5"]["low"] == pytest.approx(float(expected.min()), abs=1e-4)
    assert found["p5"]["high"] == pytest.approx(float(expected.max()), abs=1e-4)
    kind, _, data = found["p4"]["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    import base64

    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (64, 48)
