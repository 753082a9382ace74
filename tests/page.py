"""The page of `sdfl serve` as a test asks it."""

import contextlib
import json
import threading
import urllib.error
import urllib.request

from sdfl_jax.predict import serve


@contextlib.contextmanager
def serving(predictor, routes=(), *, max_upload_mb: float = 1):
    """Where the page is served, on a free port of this machine."""
    server = serve.server(predictor, host="127.0.0.1", max_upload_mb=max_upload_mb)
    server.config.app.router.routes += routes
    listener = serve._listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


def post(address: str, data, **headers) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"{address}/predict", data=data, headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
