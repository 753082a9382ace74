"""A case: a folder of what was found about photographs, and the log of how."""

import dataclasses
import functools
import hashlib
import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdfl_jax import __version__
from sdfl_jax.data import search
from sdfl_jax.data.workers import Engine
from sdfl_jax.data.workers import Workers as AnyWorkers
from sdfl_jax.errors import InputError
from sdfl_jax.examine import html_report, log, network, pdf
from sdfl_jax.examine.evidence import EVIDENCE, examine_line
from sdfl_jax.examine.finding import Finding, text
from sdfl_jax.examine.isolation import Workers
from sdfl_jax.files import replacing, write_csv, write_json

_PHOTOGRAPHS = 8  # of a task of an engine

SCHEMA = "sdfl-evidence-1"  # of evidence.json, see docs/examine.md
INDEX, TABLE, EVIDENCE_FILE = "index.html", "case.csv", "evidence.json"
COLUMNS = (
    "image",
    "folder",
    "verdict",
    "score",
    "log10_likelihood_ratio",
    "marked_area",
    "format",
    "width",
    "height",
    "bytes",
    "sha256",
    "camera",
    "software",
    "ijg_quality",
    "earlier_jpeg_quality",
    "copy_move",
    "provenance",
    "lines_failed",
    "seconds",
)
_FAILED = {
    "certainty": "",
    "limits": "The other lines do not depend on this one.",
    "found": {},
    "pictures": {},
}


@dataclasses.dataclass
class _Desk:
    """What photographs are examined with; `note` takes what is to be said in the log.

    `ways` are what an answer depends on beside the photograph, `done` the log's entries
    of what was examined before, by folder.
    """

    folder: Path
    predictor: object
    options: dict
    ways: dict
    done: dict[str, dict]
    note: Callable[[str, dict], None]

    def kept(self, folder: str, sha256: str) -> bool:
        """Whether the photograph was examined before, in the same way."""
        entry = self.done.get(folder)
        return (
            entry is not None
            and entry["sha256_before"] == sha256
            and all(entry.get(key) == value for key, value in self.ways.items())
            and not list(_changed(self.folder, entry["files"]))
        )

    def rows(self, named: dict[str, Path], pool: Workers) -> Iterator[dict]:
        """The row of each photograph, one after the other."""
        waiting = []
        for name, path in named.items():
            waiting.append(_Photograph(name, path, pool, self))
            if len(waiting) > 1:  # the next one's lines run beside the network
                yield waiting.pop(0).row()
        yield waiting.pop().row()


class Case:
    """Examines photographs into `folder`, going on where an earlier run ended.

    `predictor` is the network (`predict.predictor.Predictor`), or None for the other
    lines alone; `trusted` holds certificates of authorities (PEM) whose signers of
    content credentials are trusted. Raises `InputError` for a folder that holds
    something else, and for one whose log is broken.
    """

    def __init__(self, folder: str | os.PathLike, predictor=None, trusted: str = ""):
        self.folder = Path(folder).absolute()
        if self.folder.is_file() or (
            self.folder.is_dir()
            and any(self.folder.iterdir())
            and not (self.folder / log.NAME).exists()
        ):
            raise InputError(
                f"--out={folder}: holds something else already (no {log.NAME} in it); "
                "give a new or an empty folder."
            )
        ways = {
            "version": __version__,
            "network": predictor and predictor.sha256,
            "trusted": hashlib.sha256(trusted.encode()).hexdigest() if trusted else "",
            "lines": list(EVIDENCE),
        }
        self.log = log.Log(self.folder)
        done = {
            entry["folder"]: entry
            for entry in self.log.entries
            if entry["action"] == "examined"
        }
        options = {"provenance": {"trusted": trusted}}
        self._desk = _Desk(self.folder, predictor, options, ways, done, self._note)

    def examine(
        self, files: Sequence[str], *, workers: AnyWorkers | Workers = 2
    ) -> Iterator[dict]:
        """A row of `case.csv` for each photograph, written as it is ready.

        Folders are searched for images. A photograph that was examined before, by the
        same version with the same network, is not looked at again while its files are
        as they were. An engine loads the predictor again on its machines, and sees the
        same paths there. Raises `InputError` for a path that there is not.
        """
        found = [path.absolute() for path in search.find(files, skip=[self.folder])]
        root = os.path.commonpath({path.parent for path in found})
        named = {os.path.relpath(path, root): path for path in found}
        self.log.write("opened", {**self._desk.ways, "photographs": len(named)})
        if isinstance(workers, Engine):
            yield from self._spread(named, workers)
        elif isinstance(workers, Workers):
            yield from self._desk.rows(named, workers)
        else:
            with Workers(workers) as pool:
                yield from self._desk.rows(named, pool)
        self._close()

    def _spread(self, named: dict[str, Path], engine: Engine) -> Iterator[dict]:
        """The rows from an engine, in whose machines processes of their own parse."""
        part = _Part(
            pickle.dumps(self._desk.predictor), self._desk.options, engine.workers
        )
        names = list(named)
        tasks = []
        for start in range(0, len(names), _PHOTOGRAPHS):
            some = {name: named[name] for name in names[start : start + _PHOTOGRAPHS]}
            folders = [folder_name(name) for name in some]
            done = {f: self._desk.done[f] for f in folders if f in self._desk.done}
            tasks.append((self.folder, some, self._desk.ways, done))
        with tqdm(disable=True) as bar:
            found = engine.alone().work(part, tasks, attempt=part.attempt, bar=bar)
            for _, (rows, notes) in found:
                for action, entry in notes:
                    self._note(action, entry)
                yield from rows

    def _close(self):
        """`case.csv` and `index.html` over all photographs that the log names."""
        rows = [
            row_of(json.loads((self.folder / folder / EVIDENCE_FILE).read_text()))
            for folder in self._desk.done
        ]
        write_csv(self.folder / TABLE, rows, COLUMNS)
        pictures = {row["folder"]: self._small(row["folder"]) for row in rows}
        _write(
            self.folder / INDEX,
            html_report.index(rows, pictures, self.log.head).encode(),
        )
        files = {name: log.sha256_of(self.folder / name) for name in (TABLE, INDEX)}
        self.log.write("closed", {"photographs": len(rows), "files": files})

    def _small(self, folder: str) -> bytes | None:
        for name in ("overlay.jpg", "photograph.jpg"):
            path = self.folder / folder / name
            if path.exists():
                return html_report.smaller(path.read_bytes())
        return None

    def _note(self, action: str, entry: dict):
        self.log.write(action, entry)
        if action == "examined":
            self._desk.done[entry["folder"]] = entry


@dataclasses.dataclass(frozen=True)
class _Part:
    """Rows of some photographs and notes for the log, as an engine asks for them."""

    predictor: bytes
    options: dict
    workers: int

    def __call__(self, folder, named, ways, done, begin, rejected):
        notes = []
        note = lambda *said: notes.append(said)
        predictor = _loaded(self.predictor)
        desk = _Desk(folder, predictor, self.options, ways, done, note)
        with Workers(max(1, self.workers)) as pool:
            return list(desk.rows(named, pool)), notes

    def attempt(self, *_):
        """Nothing: what crashes a line's process is told in that line."""


@functools.lru_cache(maxsize=1)
def _loaded(predictor: bytes):
    """The network of a process, which does one part after the other."""
    return pickle.loads(predictor)


class _Photograph:
    """One photograph in work: its lines run in workers from the start on."""

    def __init__(self, name: str, path: Path, pool: Workers, desk: _Desk):
        self._name, self._path, self._pool, self._desk = name, path, pool, desk
        self.folder = folder_name(name)
        self._started = time.monotonic()
        self._futures, self._pixels, self._error, self._kept = {}, None, None, False
        if not path.is_file():  # a pipe would be waited for
            self._before, self._error = None, "not a file."
            return
        try:
            self._before = log.sha256_of(path)
        except OSError as error:
            self._before, self._error = None, f"{error.strerror}."
            return
        self._kept = desk.kept(self.folder, self._before)
        if self._kept:
            return
        if desk.predictor:  # first: the network takes longer than all other lines
            self._pixels = pool.start(network.pixels, path)
        for line in EVIDENCE:
            options = desk.options.get(line, {})
            self._futures[line] = pool.start(examine_line, line, str(path), options)

    def row(self) -> dict:
        """Waits for the lines, writes the photograph's folder, returns its row."""
        if self._error:
            self._desk.note(
                "refused", {"image": text(self._name), "reason": self._error}
            )
            return {"image": text(self._name), "error": self._error}
        target = self._desk.folder / self.folder
        if self._kept:
            evidence = json.loads((target / EVIDENCE_FILE).read_text())
            return row_of(evidence) | {"kept": True}
        lines, pictures, of_network = {}, {}, {}
        verdict = {
            "verdict": "inconclusive",
            "score": None,
            "why": "No network was asked, so that no verdict can follow.",
        }
        if self._pixels is not None:  # the workers draw up the other lines meanwhile
            asked, verdict = self._network(of_network, verdict)
        for name, future in self._futures.items():
            lines[name] = self._line(future, pictures)
        if self._pixels is not None:
            lines["network"] = asked
            pictures |= of_network
        after = log.sha256_of(self._path)
        evidence = {
            "schema": SCHEMA,
            "version": __version__,
            "network": self._desk.predictor and self._desk.predictor.sha256,
            "image": text(self._name),
            "folder": self.folder,
            "sha256_before": self._before,
            "sha256_after": after,
            "unchanged": after == self._before,
            "verdict": verdict,
            "lines": lines,
            "seconds": round(time.monotonic() - self._started, 2),
        }
        self._write(target, evidence, pictures)
        return row_of(evidence)

    def _line(self, future, pictures: dict[str, bytes]) -> dict:
        try:
            finding, seconds = self._pool.result(future)
        except InputError as error:
            return _failed(error)
        return _as_json(finding, seconds, pictures)

    def _network(self, pictures, verdict) -> tuple[dict, dict]:
        try:
            image: np.ndarray = self._pool.result(self._pixels)
            start = time.monotonic()
            finding, verdict = network.network(self._desk.predictor, image)
        except InputError as error:
            failed = "The network could not look at it, so that no verdict can follow."
            return _failed(error), verdict | {"why": failed}
        seconds = round(time.monotonic() - start, 2)
        return _as_json(finding, seconds, pictures), verdict

    def _write(self, target: Path, evidence: dict, pictures: dict[str, bytes]):
        if target.exists():  # of another version or network, or half-written
            shutil.rmtree(target)
        for name, data in pictures.items():
            _write(target / name, data)
        _write(target / "report.html", html_report.report(evidence, pictures).encode())
        if pdf.available():
            _write(target / "report.pdf", pdf.report(evidence, pictures))
        write_json(target / EVIDENCE_FILE, evidence)
        files = {
            f"{self.folder}/{path.name}": log.sha256_of(path)
            for path in sorted(target.iterdir())
        }
        keys = ("image", "folder", "sha256_before", "sha256_after")
        entry = {key: evidence[key] for key in keys}
        self._desk.note("examined", entry | self._desk.ways | {"files": files})


def _as_json(finding: Finding, seconds: float, pictures: dict[str, bytes]) -> dict:
    pictures |= finding.pictures
    return {
        "state": "done",
        "summary": finding.summary,
        "certainty": finding.certainty,
        "limits": finding.limits,
        "found": finding.found,
        "pictures": finding.captions,
        "seconds": seconds,
    }


def _failed(error: InputError) -> dict:
    return _FAILED | {"state": "failed", "summary": [f"No finding: {text(error)}"]}


def row_of(evidence: dict) -> dict:
    """The row of `case.csv` of one photograph."""
    found = {name: line["found"] for name, line in evidence["lines"].items()}
    file, meta, jpeg = (found.get(n, {}) for n in ("file", "metadata", "jpeg"))
    image = meta.get("exif", {}).get("Image", {})
    earlier = jpeg.get("earlier") or {}
    failed = [n for n, line in evidence["lines"].items() if line["state"] != "done"]
    return {
        "image": evidence["image"],
        "folder": evidence["folder"],
        "verdict": evidence["verdict"]["verdict"],
        "score": evidence["verdict"]["score"],
        "log10_likelihood_ratio": found.get("network", {}).get(
            "log10_likelihood_ratio"
        ),
        "marked_area": found.get("network", {}).get("marked_area"),
        "format": file.get("format"),
        "width": file.get("width"),
        "height": file.get("height"),
        "bytes": file.get("bytes"),
        "sha256": evidence["sha256_before"],
        "camera": " ".join(str(image[k]) for k in ("Make", "Model") if image.get(k)),
        "software": "; ".join(s["name"] for s in meta.get("software", [])),
        "ijg_quality": jpeg.get("quality", {}).get("luminance", {}).get("ijg"),
        "earlier_jpeg_quality": earlier.get("quality")
        if earlier.get("claimed")
        else None,
        "copy_move": found.get("copy_move", {}).get("claimed"),
        "provenance": found.get("provenance", {}).get("state"),
        "lines_failed": " ".join(failed),
        "seconds": evidence["seconds"],
    }


def folder_name(name: str) -> str:
    """A folder's name that any file system takes, another one for each image's name."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].lstrip(".-")
    if safe == name and safe not in (INDEX, TABLE, log.NAME):
        return safe
    return f"{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def verify(folder: str | os.PathLike) -> dict:
    """Checks a case: its log's chain, and each file against the hash in the log.

    Returns `entries`, `photographs`, `files`, `head` (the last line's hash) and
    `problems`, a line each. Raises `InputError` for a folder without a log, or with one
    whose chain is broken.
    """
    folder = Path(folder)
    path = folder / log.NAME
    if not path.is_file():
        raise InputError(f"--verify={folder}: no {log.NAME} in it, so no case.")
    entries, head = log.read(path)
    expected: dict[str, str] = {}
    for entry in entries:
        if entry["action"] == "examined":  # its folder was written anew
            before = f"{entry['folder']}/"
            expected = {k: v for k, v in expected.items() if not k.startswith(before)}
        expected |= entry.get("files", {})
    problems = list(_changed(folder, expected))
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }
    problems += [
        f"{text(name)}: not in the log"
        for name in sorted(there - {*expected, log.NAME})
    ]
    return {
        "entries": len(entries),
        "photographs": len({e["folder"] for e in entries if e["action"] == "examined"}),
        "files": len(expected),
        "head": head,
        "problems": problems,
    }


def _changed(folder: Path, files: dict[str, str]) -> Iterator[str]:
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
        elif log.sha256_of(path) != sha256:
            yield f"{name}: changed since it was written"


def _write(path: Path, data: bytes):
    with replacing(path) as beside:
        beside.write_bytes(data)
