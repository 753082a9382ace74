"""A local page on which one drops a photo and sees mask, overlay and score.

Nothing that is sent is kept: photos stay in memory until they are answered. Under load
photos share batches, a bounded number waits, and the next ones are
told to come back. `/healthz` and `/metrics` are for whoever watches the server.
"""

import asyncio
import base64
import contextlib
import hashlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import prometheus_client as prometheus
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sdfl_jax import metrics
from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.predict.answer import Answer, Answering
from sdfl_jax.predict.waiting import Full, Waiting

MAX_PIXELS = 50_000_000  # of a photo: any camera's; a small file may claim far more
_WAITING = 32  # photos that may wait for the network; beyond them 503
_WAITING_PIXELS = 200_000_000  # of theirs: 600 MB
_CONNECTIONS = 256  # at a time: what waits, what is still sent, who watches
_UPLOAD_SECONDS = 30  # in which a photo has to arrive
_ANSWER_SECONDS = 120  # from then to its answer
_RETRY_SECONDS = 5  # after which one who was turned away may come back
_OVERLAY_QUALITY = 92  # of its JPEG; the mask comes without loss

_PAGE = Path(__file__).with_suffix(".html")
_HERE = {
    "HEAD": "",
    "WHERE": "The photo goes to the program that served this page, and is not kept.",
    "KINDS": "JPEG, PNG, TIFF, BMP, WebP or GIF",
    "ACCEPTED": "image/*,.tif,.tiff",
    "ANSWERED": """async function answered(photo) {
  let reply;
  try {
    reply = await fetch("predict", { method: "POST", body: photo,
      headers: { "Content-Type": "application/octet-stream" } });
  } catch (error) {
    throw new Error("The server does not answer: " + error.message);
  }
  return reply.json();
}""",
}


def app(predictor: Answering, *, max_upload_mb: float, host: str) -> Starlette:
    """The page at `/`, and `POST /predict`: a photo in, JSON out.

    The photo is the body, or the first file of a form (`curl -F file=@photo.jpg URL`).

    The JSON holds `score`, `log10_likelihood_ratio` (null where it is not known),
    `manipulated`, `verdict`, `classes`, `manipulated_area`, `mask_source`, `width`,
    `height`, `seconds`, and as data URLs `mask` (PNG), `overlay` (JPEG) and, of those
    networks that have one, `confidence` (PNG); of a photo that cannot be answered
    `error`, one line: 408 not sent in time, 413 too large, 415 no image, 500 an answer
    that is no number, 503 (with Retry-After) too many wait. `/healthz` says whether
    photos are answered, `/metrics` how many and how fast, as Prometheus reads it. A
    page bound to loopback answers to that name alone, so that no web site can reach it
    under a name of its own.
    """
    limit = int(max_upload_mb * 1e6)
    page = filled_page(_HERE | {"LIMIT_MB": f"{max_upload_mb:g}"})
    headers = _headers(page)

    def answered(photos):
        named = [(str(i), photo) for i, photo in enumerate(photos)]
        # Always as many rows: another number would be another program.
        found = predictor.of_images(
            named, batch_size=predictor.batch_size, one_size=False
        )
        by_name = {x["name"] if isinstance(x, dict) else x.name: x for x in found}
        return [by_name[name] for name, _ in named]

    waiting = Waiting(
        answered,
        most=_WAITING,
        most_pixels=_WAITING_PIXELS,
        batch_size=predictor.batch_size,
        shape_of=predictor.shape_of_rows,
    )
    seen = _Seen(waiting)
    decoders = asyncio.Semaphore(2)  # a large photo takes several times its memory

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    async def predict(request: Request) -> Response:
        start = time.monotonic()
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                data = await _body(request, limit)
            if not data:
                return _error(400, "No file came with the request.")
            read = lambda: images.read_image(data, max_pixels=MAX_PIXELS)
            async with decoders:
                image = await run_in_threadpool(read)
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await asyncio.wrap_future(waiting.ask(image))
            if isinstance(found, dict):
                return _error(500, found["error"].partition(": ")[2])
            answer = await run_in_threadpool(_as_json, found)
        except ClientDisconnect:
            return Response(status_code=400)
        except _TooLarge:
            return _error(413, f"The file is larger than {max_upload_mb:g} MB.")
        except InputError as error:
            return _error(415, " ".join(str(error).split()))
        except Full:
            return _later("Too many photos wait already; try again later.")
        except TimeoutError:
            if time.monotonic() - start < _ANSWER_SECONDS:
                return _error(408, f"No photo came in {_UPLOAD_SECONDS} seconds.")
            return _later("The photo waited too long; try again later.")
        except asyncio.CancelledError:
            if not waiting.closed:  # this request is cancelled, not the photo's turn
                raise
            return _later("The server ends.")
        return JSONResponse(answer | {"seconds": round(time.monotonic() - start, 2)})

    async def healthy(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": len(waiting)})

    async def elsewhere(request: Request, error: HTTPException) -> Response:
        return _error(
            error.status_code, f"{error.detail}: a photo goes to POST /predict."
        )

    async def unforeseen(request: Request, error: Exception) -> Response:
        return _error(500, "The photo could not be answered; the console says why.")

    @contextlib.asynccontextmanager
    async def lifespan(_):
        yield
        waiting.close()

    hosts = ["*"]
    if host in ("127.0.0.1", "localhost", "::1"):
        hosts = ["127.0.0.1", "localhost", "[::1]", "::1"]
    return Starlette(
        routes=[
            Route("/", show),
            Route("/predict", seen.counted(predict), methods=["POST"]),
            Route("/healthz", healthy),
            Route("/metrics", seen.show),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={HTTPException: elsewhere, Exception: unforeseen},
        lifespan=lifespan,
    )


def filled_page(words: Mapping[str, str]) -> str:
    """The page with its places filled, wherever its photos are answered."""
    return re.sub(r"{{(\w+)}}", lambda place: words[place[1]], _PAGE.read_text())


class _TooLarge(Exception):
    pass


async def _body(request: Request, limit: int) -> bytes:
    """The file that was sent; `_TooLarge` as soon as that is known."""
    data = bytearray()
    claimed = request.headers.get("content-length", "0")
    if claimed.isdigit() and int(claimed) > limit:
        raise _TooLarge
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _TooLarge
    return _file_of(bytes(data), request.headers.get("content-type", ""))


def _file_of(body: bytes, content_type: str) -> bytes:
    """The file in a form, as `curl -F file=@photo.jpg` sends it; else all of it."""
    found = re.search(r'^multipart/form-data;.*boundary="?([^";]+)', content_type, re.I)
    if found is None:
        return body
    files = []
    for part in body.split(b"--" + found[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            files.append(content.removesuffix(b"\r\n"))
    return files[0] if files else b""


class _Seen:
    """What the server counts of its work, for `/metrics`."""

    def __init__(self, waiting: Waiting):
        self._registry = prometheus.CollectorRegistry()
        self._answers = prometheus.Counter(
            "sdfl_photos", "Photos by HTTP status", ["status"], registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            "sdfl_photo_seconds", "From request to answer", registry=self._registry
        )
        prometheus.Gauge(
            "sdfl_photos_waiting", "Photos in the queue", registry=self._registry
        ).set_function(lambda: len(waiting))

    def counted(self, handler):
        async def counted(request: Request) -> Response:
            with self._seconds.time():
                response = await handler(request)
            self._answers.labels(response.status_code).inc()
            return response

        return counted

    async def show(self, request: Request) -> Response:
        text = prometheus.generate_latest(self._registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)


def run(load: Callable[[], Answering], *, host: str, port: int, max_upload_mb: float):
    """Serves the page until interrupted, and prints where it is.

    `load` gives the network, once the address is had. Raises InputError for an address
    that cannot be and for a limit that lets nothing in.
    """
    if max_upload_mb <= 0:
        raise InputError(f"--max_upload_mb={max_upload_mb}: more than 0 is expected.")
    with _listen(host, port) as listener:
        predictor = load()
        name = f"[{host}]" if ":" in host else host
        port = listener.getsockname()[1]
        print(f"Drop photos at http://{name}:{port}/ (Ctrl-C ends it)", flush=True)
        whole = server(predictor, host=host, max_upload_mb=max_upload_mb)
        whole.run(sockets=[listener])


def server(predictor: Answering, *, host: str, max_upload_mb: float) -> uvicorn.Server:
    """The server of `app`, not yet running."""
    return uvicorn.Server(
        uvicorn.Config(
            app(predictor, max_upload_mb=max_upload_mb, host=host),
            log_level="warning",
            limit_concurrency=_CONNECTIONS,
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
    mask = images.encode_mask(found.grey[..., None])
    bgr = cv2.cvtColor(found.overlay, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _OVERLAY_QUALITY]
    # Colours as sharp as the outlines that are drawn in them.
    options += [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    overlay = cv2.imencode(".jpg", bgr, options)[1].tobytes()
    more = {}
    if found.confidence is not None:
        grey = metrics.to_uint8(found.confidence)
        more["confidence"] = _data_url("png", images.encode_mask(grey[..., None]))
    return (
        found.summary()
        | more
        | {
            "width": width,
            "height": height,
            "mask": _data_url("png", mask),
            "overlay": _data_url("jpeg", overlay),
        }
    )


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _later(text: str) -> Response:
    response = _error(503, text)
    response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def _error(status: int, text: str) -> Response:
    # What is left of a body that was refused is not waited for.
    return JSONResponse(
        {"error": text}, status_code=status, headers={"Connection": "close"}
    )


def policy(page: str, **more: str) -> str:
    """Lets the page run its own script alone, and ask none but its server.

    `more` is allowed besides, by directive: `script_src="'self'"`.
    """
    allowed = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'"}
    allowed |= {"img-src": "data: blob:", "form-action": "'none'"}
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[f"{kind}-src"] = f"'sha256-{digest}'"
    for directive, sources in more.items():
        directive = directive.replace("_", "-")
        allowed[directive] = f"{allowed.get(directive, '')} {sources}".strip()
    return "; ".join(f"{k} {v}" for k, v in allowed.items())


def _headers(page: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
