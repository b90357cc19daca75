"""The web application: the page, ``POST /predict`` and ``POST /gates``.

The body of a request is the image file itself. No file of the server can be requested: the files of
the page are read once and served by name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from attendet import __version__
from attendet.errors import AttendetError, ConfigError
from attendet.exporters.web_folder import PAGE, describe_model
from attendet.images import read_image
from attendet.web.limits import ServeLimits
from attendet.web.queue import BusyError, InferenceQueue

if TYPE_CHECKING:
    from attendet.inference import Detector
    from attendet.web.gates import GateReader

T = TypeVar("T")

SHARED_FILES = (
    *("index.html", "style.css", "icon.svg"),
    *(f"app/{name}.js" for name in ("main", "draw", "files", "frames")),
)
"""Files of the page that are the same as in an exported folder."""

REMOTE = Path(__file__).with_name("page") / "remote.js"

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".js": "text/javascript; charset=utf-8",
}

RUNTIME_LABELS = {
    "NcnnRuntime": "ncnn",
    "OnnxRuntime": "ONNX Runtime",
    "OpenVinoRuntime": "OpenVINO",
    "TorchRuntime": "PyTorch",
    "TorchScriptRuntime": "TorchScript",
}

UPLOAD_SECONDS = 60
"""Time limit for the upload of a request body."""

PARAMETERS = ("confidence", "nms_iou", "max_detections", "only")
"""Query parameters of ``POST /predict``."""

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Detection(BaseModel):
    """One detection."""

    class_id: int
    name: str
    score: float = Field(ge=0, le=1)
    box_xyxy: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom in pixels of the image"
    )


class Prediction(BaseModel):
    """The detections of one image, best score first."""

    image_hw: tuple[int, int] = Field(description="height and width of the image, pixels")
    detections: list[Detection]
    milliseconds: dict[str, float] = Field(description="time of each step")


class GateDrawing(BaseModel):
    """Image of the gates of one attention block."""

    site: str
    kind: str = Field(description="map: over the image; channels: one value per channel, sorted")
    low: float
    high: float
    image: str = Field(description="data URL of a JPEG")


class Gates(BaseModel):
    """The gates of all attention blocks."""

    gates: list[GateDrawing]


class ErrorResponse(BaseModel):
    """Error message in one line."""

    error: str


class TooLargeError(AttendetError):
    """An upload is too large or too slow."""


def create_app(
    detector: Detector,
    *,
    name: str,
    limits: ServeLimits | None = None,
    gates: GateReader | None = None,
) -> FastAPI:
    """Return the web application of a detector.

    Args:
        detector: the detector; its thresholds are the defaults of a request.
        name: title of the page.
        limits: limits of uploads and requests.
        gates: reader of the gates of the attention blocks; None if there are no gates to show.
    """
    limits = limits or ServeLimits()
    queue = InferenceQueue(limits.max_waiting)
    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": ErrorResponse} for code in (400, 413, 422, 503)
    }
    app = FastAPI(
        title=f"attendet: {name}",
        version=__version__,
        docs_url=None,  # FastAPI's documentation pages load scripts from another host
        redoc_url=None,
        responses=problems,
    )
    _answer_errors_in_one_line(app)
    _serve_page(app, _description(detector, name, limits, gates))

    async def answer(request: Request, call: Callable[[bytes], T]) -> tuple[T, float]:
        """Return the result of a call on the body, and its time in the queue, ms."""
        with queue.entry():
            body = await _read_body(request, limits.max_upload)
            arrived = time.perf_counter()

            def timed() -> tuple[T, float]:
                waited = 1000 * (time.perf_counter() - arrived)
                return call(body), waited

            return await queue.run(timed)

    @app.post("/predict", openapi_extra=IMAGE_BODY)
    async def predict(
        request: Request,
        confidence: Annotated[float | None, Query(ge=0, le=1)] = None,
        nms_iou: Annotated[float | None, Query(ge=0, le=1)] = None,
        max_detections: Annotated[int | None, Query(ge=1, le=3000)] = None,
        only: Annotated[list[str] | None, Query(description="names of classes to return")] = None,
    ) -> Prediction:
        """Return the detections of the image in the body."""
        for key in request.query_params:
            if key not in PARAMETERS:
                raise ConfigError.unknown("parameter", key, PARAMETERS)

        def run(body: bytes) -> Prediction:
            started = time.perf_counter()
            image = read_image(body, name="image")
            read = time.perf_counter()
            found = detector.predict(
                image,
                confidence=confidence,
                nms_iou=nms_iou,
                max_detections=max_detections,
                only=only,
            )
            finished = time.perf_counter()
            return Prediction(
                image_hw=found.image_hw,
                detections=[Detection(**one) for one in found.to_dicts()],
                milliseconds={
                    "read": round(1000 * (read - started), 2),
                    "network": round(1000 * (finished - read), 2),
                },
            )

        prediction, waited = await answer(request, run)
        prediction.milliseconds = {"wait": round(waited, 2), **prediction.milliseconds}
        return prediction

    if gates is not None:
        reader = gates

        @app.post("/gates", openapi_extra=IMAGE_BODY)
        async def read_gates(request: Request) -> Gates:
            """Return the gates that the attention blocks apply to the image in the body."""

            def run(body: bytes) -> Gates:
                drawings = reader.read(read_image(body, name="image"))
                return Gates(gates=[GateDrawing(**one) for one in drawings])

            return (await answer(request, run))[0]

    return app


def _description(
    detector: Detector, name: str, limits: ServeLimits, gates: GateReader | None
) -> dict[str, Any]:
    """Return the content of model.json."""
    runtime = type(detector.runtime).__name__
    fixed = detector.runtime.limits
    return {
        **describe_model(detector.metadata, name, detector.selection),
        "limits": {"min_confidence": fixed.confidence or 0, "max_nms_iou": fixed.nms_iou or 1},
        "server": {
            "runtime": RUNTIME_LABELS.get(runtime, runtime),
            "gates": [] if gates is None else gates.sites,
            "max_upload": limits.max_upload,
        },
    }


def _serve_page(app: FastAPI, description: dict[str, Any]) -> None:
    """Add a route for each file of the page."""
    files = {name: PAGE / name for name in SHARED_FILES} | {"app/remote.js": REMOTE}

    def add(path: str, content: bytes, kind: str) -> None:
        async def send() -> Response:
            headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
            return Response(content, media_type=kind, headers=headers)

        app.get(path, include_in_schema=False)(send)

    for name, file in files.items():
        content, kind = file.read_bytes(), CONTENT_TYPES[file.suffix]
        add("/" if name == "index.html" else f"/{name}", content, kind)

    @app.get("/model.json", include_in_schema=False)
    async def model() -> JSONResponse:
        return JSONResponse(description, headers={"Cache-Control": "no-cache"})


async def _read_body(request: Request, max_upload: float) -> bytes:
    """Return the body of a request.

    Raises:
        ConfigError: if the body is empty, incomplete or a form.
        TooLargeError: if the body is too large or does not arrive in time.
    """
    most = int(max_upload * 1e6)
    error = TooLargeError(f"image must be at most {max_upload:g} MB; got more. Scale it down.")
    kind = request.headers.get("Content-Type", "").partition(";")[0]
    if kind == "multipart/form-data":
        raise ConfigError(
            "body must be an image file; got a form. Send the bytes of the file, as "
            "curl --data-binary @FILE does."
        )
    length = request.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > most:
        raise error
    received = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                received += part
                if len(received) > most:
                    raise error
    except ClientDisconnect:
        raise ConfigError("body must be complete; the client closed the connection.") from None
    except TimeoutError:
        raise TooLargeError(
            f"image must arrive within {UPLOAD_SECONDS} seconds; it did not. Try again."
        ) from None
    if not received:
        raise ConfigError("body must be an image file; got nothing. Send the bytes of the file.")
    return bytes(received)


def _answer_errors_in_one_line(app: FastAPI) -> None:
    def answer(status: int, text: str) -> JSONResponse:
        return JSONResponse({"error": " ".join(text.split())}, status_code=status)

    @app.exception_handler(AttendetError)
    async def expected(_: Request, error: AttendetError) -> JSONResponse:
        codes = {BusyError: 503, TooLargeError: 413}
        return answer(codes.get(type(error), 400), str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(422, f"{first['loc'][-1]}: {first['msg']}; got {first['input']!r}.")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, f"{error.detail}.")

    @app.exception_handler(Exception)  # raised again, so that the log of the server has it
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return answer(500, f"{type(error).__name__}; see the log of the server.")
