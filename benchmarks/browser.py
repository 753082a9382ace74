"""A page of `sdfl export --format=web` in a headless browser, for tests and figures."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class serving:
    """Serves a folder on a free port; what is posted comes out of `seen`."""

    def __init__(self, folder):
        self.seen = queue.SimpleQueue()
        self.asked = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                outer.asked.append(self.path)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                outer.seen.put(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

        handler = functools.partial(Handler, directory=folder)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.address

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


DRIVER = """<!doctype html><title>driver</title>
<iframe id="page" src="/index.html" style="width:1000px;height:1300px"></iframe>
<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const seen = [];
async function drop(page, name, blob) {
  const data = new page.defaultView.DataTransfer(), shares = [];
  data.items.add(new page.defaultView.File([blob], name));
  const event = { dataTransfer: data, bubbles: true, cancelable: true };
  const bar = page.getElementById("progress");
  new MutationObserver(() => shares.push(bar.getAttribute("value"))).observe(bar,
    { attributes: true });
  page.getElementById("drop").dispatchEvent(
    new page.defaultView.DragEvent("drop", event));
  const status = page.getElementById("status");
  do await wait(20); while (status.textContent.startsWith("Looking"));
  seen.push({ name: name, status: status.textContent, shares: shares,
    error: status.classList.contains("error"),
    hidden: bar.hidden && page.getElementById("result").hidden,
    verdict: page.getElementById("verdict").textContent,
    score: page.getElementById("meter").value,
    ratio: page.getElementById("ratio").textContent,
    mask: page.getElementById("save_mask").href,
    overlay: page.getElementById("save_overlay").href });
}
window.addEventListener("load", async () => {
  const page = document.getElementById("page").contentDocument;
  const elsewhere = await page.defaultView.fetch("OTHER/x").catch(() => "refused");
  seen.push({ elsewhere: elsewhere });
  await drop(page, "letter.txt", new Blob(["Dear reader"]));
  for (const name of NAMES)
    await drop(page, name, await (await fetch("/" + name)).blob());
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
});
</script>"""


def opened(folder, names, profile, timeout=240) -> tuple[list, list]:
    """What the page of `folder` tells of photos in it, and what it asked another host.

    Raises LookupError where there is no browser.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise LookupError(f"no browser here: none of {', '.join(BROWSERS)}")
    here, there = serving(folder), serving(folder)
    with here as address, there as other:
        driver = DRIVER.replace("OTHER", other).replace("NAMES", json.dumps(names))
        (folder / "driver.html").write_text(driver)
        running = subprocess.Popen(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",  # without, it would end once loaded
                f"{address}/driver.html",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            seen = here.seen.get(timeout=timeout)
        finally:
            running.terminate()
            running.wait(20)
    return seen, there.asked
