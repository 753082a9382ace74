"""The page: over HTTP, and in a real browser where there is one."""

import base64
import concurrent.futures
import http.client
import json
import queue
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
import zlib

import cv2
import numpy as np
import pytest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sdfl_jax.errors import InputError
from sdfl_jax.examine.html_report import CANNOT
from sdfl_jax.metrics.calibration import VERDICTS
from sdfl_jax.predict import __main__ as predict_command
from sdfl_jax.predict import output_folder, serve, waiting
from sdfl_jax.predict.predictor import Predictor
from tests import page, tiny
from tests.page import post

LIMIT_MB = 0.05
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("run"), data__geometry="crop")


@pytest.fixture(scope="module")
def address(workdir):
    # What the browser's test opens: the page in a frame, and a script beside it.
    routes = [
        Route("/driver", lambda request: HTMLResponse(DRIVER)),
        Route("/photo", lambda request: Response(photo(40, 60))),
        Route("/seen", take_seen, methods=["POST"]),
    ]
    with serving(workdir, routes) as address:
        yield address


def serving(workdir, routes=()):
    return page.serving(Predictor(str(workdir)), routes, max_upload_mb=LIMIT_MB)


def photo(height: int, width: int, seed: int = 0) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", image)[1].tobytes()


def decoded(url: str) -> np.ndarray:
    data = base64.b64decode(url.partition("base64,")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def refusal(address: str, data) -> tuple[int, str]:
    status, answer = post(address, data)
    assert set(answer) == {"error"} and len(answer["error"].splitlines()) == 1
    return status, answer["error"]


def test_the_page_says_what_a_case_says_and_never_that_a_photo_is_authentic():
    text = " ".join(serve._PAGE.read_text().split())
    assert "looks authentic" not in text.lower()
    assert "answer.verdict[0].toUpperCase() + answer.verdict.slice(1)" in text
    for words in ("o manipulation found” ", "wholly generated", "inconclusive"):
        assert words in text
    assert VERDICTS[0] in CANNOT.lower() and "wholly generated" in CANNOT


def test_a_photo_gets_the_answer_that_the_command_gives(address, workdir, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(photo(40, 60))
    (line,) = output_folder.predict(
        lambda: Predictor(str(workdir)), str(tmp_path / "out"), [str(path)]
    )
    status, answer = post(address, path.read_bytes())
    assert status == 200 and (answer["height"], answer["width"]) == (40, 60)
    for name in ("score", "verdict", "classes", "manipulated_area", "mask_source"):
        assert answer[name] == line[name]
    mask = cv2.imread(line["mask"], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded(answer["mask"]), mask)
    overlay = cv2.imread(line["overlay"]).astype(int)
    assert np.abs(decoded(answer["overlay"]) - overlay).mean() < 6  # a JPEG


def test_uploads_at_once_get_each_its_own_answer_and_leave_no_file(
    address, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sizes = [(33 + i, 60 - i) for i in range(8)]
    ask = lambda size: post(address, photo(*size, seed=size[0]))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, sizes))
    for size, (status, answer) in zip(sizes, answers, strict=True):
        assert status == 200 and decoded(answer["mask"]).shape == size
        _, alone = ask(size)
        assert answer["mask"] == alone["mask"] and answer["score"] == alone["score"]
    assert not list(tmp_path.iterdir())


def test_what_waits_is_answered_in_batches_of_one_size_and_in_order():
    batches, at_work, go_on = [], threading.Event(), threading.Event()

    def answer(images):
        batches.append([image.shape[0] for image in images])
        at_work.set()
        assert go_on.wait(10)
        return [int(image[0, 0, 0]) for image in images]

    queue = waiting.Waiting(answer, most=7, most_pixels=10_000, batch_size=4)
    ask = lambda side, value: queue.ask(np.full((side, side, 3), value, np.uint8))
    first = ask(8, 0)
    assert at_work.wait(10)  # meanwhile the others come
    others = [ask(side, i) for i, side in enumerate((8, 9, 8, 8, 9, 8, 8), start=1)]
    with pytest.raises(waiting.Full):
        ask(8, 9)
    assert others[2].cancel()  # its asker has gone
    with pytest.raises(waiting.Full):  # too many pixels
        ask(100, 9)
    go_on.set()
    assert first.result(10) == 0
    assert [f.result(10) for f in others[:2] + others[3:]] == [1, 2, 4, 5, 6, 7]
    assert batches == [[8], [8] * 4, [9] * 2]
    queue.close()


def test_an_error_of_the_network_is_its_askers_and_the_next_is_served():
    def answer(images):
        if images[0][0, 0, 0]:
            raise ValueError("no")
        return ["yes"]

    queue = waiting.Waiting(answer, most=2, most_pixels=1, batch_size=1)
    with pytest.raises(ValueError):
        queue.ask(np.ones((4, 4, 3), np.uint8)).result(10)
    assert queue.ask(np.zeros((4, 4, 3), np.uint8)).result(10) == "yes"
    queue.close()


def test_beyond_what_may_wait_one_is_asked_to_come_back(workdir, monkeypatch):
    monkeypatch.setattr(serve, "_WAITING", 0)
    with serving(workdir) as address:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/predict", data=photo(40, 60))
    assert refused.value.code == 503
    assert int(refused.value.headers["Retry-After"]) > 0
    assert "try again" in json.load(refused.value)["error"]


def test_clients_that_stop_or_send_slowly_change_nothing_for_others(
    workdir, monkeypatch
):
    monkeypatch.setattr(serve, "_UPLOAD_SECONDS", 1)
    data = photo(40, 60)
    with serving(workdir) as address:
        connections = []
        for sent in (b"", data[:100], data[:100]):
            connections.append(http.client.HTTPConnection(address.partition("//")[2]))
            connections[-1].putrequest("POST", "/predict")
            connections[-1].putheader("Content-Length", str(len(data)))
            connections[-1].endheaders(sent or None)
        connections[0].close()
        assert post(address, data)[0] == 200
        late = connections[2].getresponse()
        assert late.status == 408 and "in 1 seconds" in json.load(late)["error"]
        assert post(address, data)[0] == 200
        for connection in connections:
            connection.close()


def test_health_and_metrics_tell_what_was_answered(workdir):
    with serving(workdir) as address:
        assert post(address, photo(40, 60))[0] == 200
        assert refusal(address, b"hello")[0] == 415
        with urllib.request.urlopen(f"{address}/healthz") as reply:
            assert json.load(reply) == {"status": "ok", "waiting": 0}
        with urllib.request.urlopen(f"{address}/metrics") as reply:
            lines = reply.read().decode().splitlines()
    assert 'sdfl_photos_total{status="200"} 1.0' in lines
    assert 'sdfl_photos_total{status="415"} 1.0' in lines
    assert "sdfl_photo_seconds_count 2.0" in lines


def test_what_is_no_photo_is_refused_in_one_line(address):
    status, error = refusal(address, b"hello")
    assert status == 415 and "it looks like text" in error
    assert refusal(address, b"")[0] == 400
    assert refusal(address, photo(40, 60)[:200])[0] == 415


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict]:
    """A form's body and headers, as `curl -F` sends them."""
    body = b"".join(
        f"--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for head, content in parts
    )
    kind = "multipart/form-data; boundary=xyz"
    return body + b"--xyz--\r\n", {"Content-Type": kind}


def test_a_form_is_answered_as_the_bare_file(address):
    file = 'name="file"; filename="a.png"\r\nContent-Type: image/png'
    body, headers = form(('name="note"', b"hello"), (file, photo(40, 60)))
    status, answer = post(address, body, **headers)
    _, plain = post(address, photo(40, 60))
    assert status == 200 and answer["score"] == plain["score"]
    for parts, code in (
        ([('name="file"', b"text")], 400),
        ([(file, b"no image")], 415),
        ([(file, b"")], 400),
    ):
        body, headers = form(*parts)
        status, answer = post(address, body, **headers)
        assert status == code and "\n" not in answer["error"]


def test_other_addresses_are_told_in_json(address):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/elsewhere")
    assert caught.value.code == 404
    assert "POST /predict" in json.loads(caught.value.read())["error"]


def test_a_small_file_that_claims_a_huge_image_is_refused(address):
    chunk = lambda kind, data: (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    status, error = refusal(address, bomb)
    assert status == 415 and "at most 50,000,000" in error


def test_uploads_beyond_the_limit_are_refused(address):
    status, error = refusal(address, bytes(int(LIMIT_MB * 1e6) + 1))
    assert status == 413 and "0.05 MB" in error
    # Without a length the bytes are counted.
    status, _ = refusal(address, (bytes(10_000) for _ in range(6)))
    assert status == 413
    assert post(address, photo(40, 60))[0] == 200


def test_the_page_is_whole_and_asks_nobody_else(address):
    with urllib.request.urlopen(address) as reply:
        text, headers = reply.read().decode(), reply.headers
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", text)
    assert "up to 0.05 MB" in text and "{{" not in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_another_name_for_this_machine_is_refused(address):
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 400
    connection.close()


def test_an_address_that_cannot_be_had_is_told_in_one_line(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(InputError, match=f"--port={port} --host=127.0.0.1: cannot"):
        serve._listen("127.0.0.1", port)
    with pytest.raises(InputError, match="0 to 65535"):
        serve._listen("127.0.0.1", 70_000)
    with pytest.raises(InputError, match="--host=no.such.host: cannot"):
        serve._listen("no.such.host", 0)


def test_serving_refuses_in_one_line(workdir, capsys):
    for options, text in (
        (["--max_upload_mb=0"], "more than 0 is expected"),
        (["--port=-1"], "0 to 65535"),
    ):
        with pytest.raises(SystemExit) as stopped:
            predict_command.main([f"--workdir={workdir}", "--serve", *options])
        assert stopped.value.code == 2
        error = capsys.readouterr().err.strip()
        assert text in error and len(error.splitlines()) == 1


def test_the_page_is_for_this_machine_alone_unless_told_otherwise():
    assert predict_command._arguments().parse_args(["--workdir=x"]).host == "127.0.0.1"


SEEN = queue.SimpleQueue()  # what the browser tells of the page


async def take_seen(request):
    SEEN.put(await request.json())
    return Response()


DRIVER = """<!doctype html><title>driver</title>
<iframe id="page" src="/" style="width:1000px;height:1300px;border:0"></iframe>
<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const seen = [];
async function drop(page, name, bytes) {
  const data = new page.defaultView.DataTransfer();
  data.items.add(new page.defaultView.File([bytes], name));
  const event = { dataTransfer: data, bubbles: true, cancelable: true };
  page.getElementById("drop").dispatchEvent(
    new page.defaultView.DragEvent("drop", event));
  const status = page.getElementById("status");
  do await wait(50); while (status.textContent.startsWith("Looking"));
  seen.push({ name: name, status: status.textContent,
    error: status.classList.contains("error"),
    hidden: page.getElementById("result").hidden });
}
window.addEventListener("load", async () => {
  const page = document.getElementById("page").contentDocument;
  await drop(page, "letter.txt", new Blob(["Dear reader"]));
  await drop(page, "huge.png", new Blob([new Uint8Array(60000)]));
  await drop(page, "photo.png", await (await fetch("/photo")).blob());
  const picture = page.getElementById("picture");
  for (const view of ["overlay", "mask", "original"]) {
    page.querySelector(`input[value=${view}]`).click();
    await picture.decode();
    seen.push({ view: view, kind: picture.src.slice(0, 15), alt: picture.alt,
      width: picture.naturalWidth, height: picture.naturalHeight });
  }
  page.querySelector("input[value=overlay]").click();
  seen.push({ verdict: page.getElementById("verdict").textContent,
    score: page.getElementById("score").textContent,
    meter: page.getElementById("meter").value,
    mask: page.getElementById("save_mask").download });
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
});
</script>"""


def test_a_photo_dropped_in_a_browser_shows_mask_overlay_and_score(address, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    running = subprocess.Popen(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--remote-debugging-port=0",  # without, it would end when it has loaded
            f"{address}/driver",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        letter, huge, dropped, *views, result = SEEN.get(timeout=240)
    finally:
        running.terminate()
        running.wait(20)
    assert letter["error"] and letter["hidden"]
    assert letter["status"].startswith("letter.txt: not an image")
    assert huge["status"] == "huge.png: larger than 0.05 MB."
    assert not dropped["error"] and not dropped["hidden"]
    assert dropped["status"].startswith("Done in")
    _, answer = post(address, photo(40, 60))
    kinds = ["data:image/jpeg", "data:image/png;", "blob:http://127"]
    assert [view["kind"] for view in views] == kinds
    for view in views:
        assert (view["width"], view["height"]) == (60, 40) and view["alt"]
    assert result["meter"] == pytest.approx(answer["score"], abs=1e-3)
    assert result["score"].startswith(f"{100 * answer['score']:.1f} %")
    assert result["verdict"].lower() == answer["verdict"] == "inconclusive"
    assert result["mask"] == "photo_mask.png"
