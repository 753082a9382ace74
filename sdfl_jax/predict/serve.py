"""A local page on which one drops a photo and sees mask, overlay and score.

Nothing that is sent is kept: photos stay in memory until they are answered.
"""

import base64
import hashlib
import re
import socket
import threading
import time
from pathlib import Path

import cv2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.predict.predictor import Answer, Predictor

MAX_PIXELS = 50_000_000  # of a photo: any camera's; a small file may claim far more
_WAITING = 32  # connections at a time; beyond them 503
_OVERLAY_QUALITY = 92  # of its JPEG; the mask comes without loss

_PAGE = Path(__file__).with_suffix(".html")


def app(predictor: Predictor, *, max_upload_mb: float, host: str) -> Starlette:
    """The page at `/`, and `POST /predict`: a photo's bytes in, JSON out.

    The JSON holds `score`, `manipulated`, `classes`, `manipulated_area`,
    `mask_source`, `width`, `height`, `seconds`, and `mask` (PNG) and `overlay` (JPEG)
    as data URLs; of a photo that cannot be answered `error`, one line: 413 too large,
    415 no image. Photos are answered one at a time. A page bound to loopback answers
    to that name alone, so that no web site can reach it under a name of its own.
    """
    limit = int(max_upload_mb * 1e6)
    one_at_a_time = threading.Lock()
    page = _PAGE.read_text().replace("{{LIMIT_MB}}", f"{max_upload_mb:g}")
    headers = _headers(page)

    def answer(data: bytes) -> dict:
        start = time.monotonic()
        image = images.read_image(data, max_pixels=MAX_PIXELS)
        with one_at_a_time:
            (found,) = predictor.of_images([("photo", image)], batch_size=1)
        return _as_json(found) | {"seconds": round(time.monotonic() - start, 2)}

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    async def predict(request: Request) -> Response:
        data = bytearray()
        claimed = request.headers.get("content-length", "0")
        too_large = claimed.isdigit() and int(claimed) > limit
        try:
            if not too_large:
                async for chunk in request.stream():
                    data += chunk
                    if too_large := len(data) > limit:
                        break
        except ClientDisconnect:
            return Response(status_code=400)
        if too_large:
            return _error(413, f"The file is larger than {max_upload_mb:g} MB.")
        if not data:
            return _error(400, "No file came with the request.")
        try:
            return JSONResponse(await run_in_threadpool(answer, bytes(data)))
        except InputError as error:
            return _error(415, " ".join(str(error).split()))

    async def unforeseen(request: Request, error: Exception) -> Response:
        return _error(500, "The photo could not be answered; the console says why.")

    hosts = ["*"]
    if host in ("127.0.0.1", "localhost", "::1"):
        hosts = ["127.0.0.1", "localhost", "[::1]", "::1"]
    return Starlette(
        routes=[
            Route("/", show),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={Exception: unforeseen},
    )


def run(
    workdir: str, checkpoint_name: str, *, host: str, port: int, max_upload_mb: float
):
    """Serves the page until interrupted, and prints where it is.

    Raises InputError for an address that cannot be had, a limit that lets nothing in
    and a `workdir` without a checkpoint.
    """
    if max_upload_mb <= 0:
        raise InputError(f"--max_upload_mb={max_upload_mb}: more than 0 is expected.")
    with _listen(host, port) as listener:
        predictor = Predictor(workdir, checkpoint_name)
        name = f"[{host}]" if ":" in host else host
        port = listener.getsockname()[1]
        print(f"Drop photos at http://{name}:{port}/ (Ctrl-C ends it)", flush=True)
        whole = server(predictor, host=host, max_upload_mb=max_upload_mb)
        whole.run(sockets=[listener])


def server(predictor: Predictor, *, host: str, max_upload_mb: float) -> uvicorn.Server:
    """The server of `app`, not yet running."""
    return uvicorn.Server(
        uvicorn.Config(
            app(predictor, max_upload_mb=max_upload_mb, host=host),
            log_level="warning",
            limit_concurrency=_WAITING,
            server_header=False,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"--port={port}: 0 to 65535 is expected.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"--port={port} --host={host}: cannot be listened at ({error.strerror})."
        ) from None


def _as_json(found: Answer) -> dict:
    height, width = found.image.shape[:2]
    mask = images.encode_mask(found.mask[..., None])
    bgr = cv2.cvtColor(found.overlay, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _OVERLAY_QUALITY]
    # Colours as sharp as the outlines that are drawn in them.
    options += [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    overlay = cv2.imencode(".jpg", bgr, options)[1].tobytes()
    return found.figures() | {
        "width": width,
        "height": height,
        "mask": _data_url("png", mask),
        "overlay": _data_url("jpeg", overlay),
    }


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _error(status: int, text: str) -> Response:
    # What is left of a body that was refused is not waited for.
    return JSONResponse(
        {"error": text}, status_code=status, headers={"Connection": "close"}
    )


def _headers(page: str) -> dict[str, str]:
    """Lets the page run its own script alone, and ask none but this server."""
    allowed = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'"}
    allowed |= {"img-src": "data: blob:", "form-action": "'none'"}
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[f"{kind}-src"] = f"'sha256-{digest}'"
    return {
        "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in allowed.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
