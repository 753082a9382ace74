"""Lines of evidence against files made with known properties, the case, its log."""

import contextlib
import datetime
import io
import json
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import c2pa
import cv2
import jpeglib
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data.tiling import SecondLook
from sdfl_jax.errors import InputError
from sdfl_jax.examine import (
    aids,
    compression,
    copy_move,
    metadata,
    network,
    provenance,
    structure,
)
from sdfl_jax.examine.__main__ import main
from sdfl_jax.examine.case import Case, folder_name, verify
from sdfl_jax.examine.evidence import EVIDENCE, TITLES, examine_line
from sdfl_jax.examine.isolation import Workers
from sdfl_jax.metrics.calibration import VERDICTS, verdict
from sdfl_jax.predict.predictor import Predictor
from tests import fuzz, tiny


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A photograph that ships in an installed package, uint8 512 512 3."""
    from skimage import data

    return data.astronaut()


def save(folder: Path, image: np.ndarray, name: str = "photo.jpg", **options) -> Path:
    path = folder / name
    Image.fromarray(image).save(path, **options)
    return path


# The file


def test_the_parts_of_a_jpeg_file_add_up_to_all_of_it(tmp_path, photograph):
    path = save(tmp_path, photograph, comment=b"thirteen byte", progressive=True)
    data = path.read_bytes()
    parts, end, remarks = structure.layout(data, "JPEG")
    assert sum(part["bytes"] for part in parts) == end == len(data)
    assert not remarks
    (comment,) = (part for part in parts if part["name"] == "COM")
    assert comment["what"] == "thirteen byte" and comment["bytes"] == 4 + 13
    assert sum(part["name"] == "SOS" for part in parts) > 5


def test_bytes_behind_the_end_are_counted_and_named(tmp_path, photograph):
    small = photograph[:64, :64]
    for name, ending in (("a.jpg", "JPEG"), ("a.png", "PNG"), ("a.bmp", "BMP")):
        path = save(tmp_path, small, name)
        tail = b"PK\3\4" + b"x" * 96
        path.write_bytes(path.read_bytes() + tail)
        found = structure.file(path).found
        assert (found["format"], found["bytes_behind_end"]) == (ending, 100)
        assert found["behind_end"] == "ZIP"


def test_an_image_inside_metadata_is_not_taken_for_the_end(tmp_path, photograph):
    inner = io.BytesIO()
    Image.fromarray(photograph[:32, :32]).save(inner, "JPEG")
    path = save(tmp_path, photograph, comment=inner.getvalue())
    found = structure.file(path).found
    assert found["bytes_behind_end"] == 0 and found["width"] == 512


def test_an_ending_that_does_not_fit_is_told(tmp_path, photograph):
    path = save(tmp_path, photograph[:64, :64], "a.png")
    renamed = path.rename(tmp_path / "a.jpg")
    found = structure.file(renamed).found
    assert found["format"] == "PNG" and found["ending_fits"] is False


def test_a_wrong_checksum_in_a_png_file_is_told(tmp_path, photograph):
    path = save(tmp_path, photograph[:64, :64], "a.png")
    data = bytearray(path.read_bytes())
    data[29] ^= 1  # in the checksum of IHDR
    path.write_bytes(data)
    assert any(
        "checksum" in remark for remark in structure.layout(bytes(data), "PNG")[2]
    )


# Metadata


def with_exif(folder: Path, image: np.ndarray, thumbnail: np.ndarray | None = None):
    """A JPEG file with dates that disagree, a position, a maker's note, a thumbnail."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 1"
    exif[0x0131] = "Adobe Photoshop CS4 Windows"
    exif[0x0132] = "2020:03:04 12:00:00"
    inner = exif.get_ifd(0x8769)
    inner[0x9003] = inner[0x9004] = "2020:01:01 12:00:00"
    inner[0x927C] = b"maker's note"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "S", (33.0, 30.0, 36.0)
    gps[3], gps[4] = "E", (151.0, 0.0, 0.0)
    if thumbnail is not None:
        return save(folder, image, exif=_with_thumbnail(exif, thumbnail))
    return save(folder, image, exif=exif)


def _with_thumbnail(exif: Image.Exif, thumbnail: np.ndarray) -> bytes:
    """The EXIF block with a second directory that holds a JPEG, little endian."""
    packed = io.BytesIO()
    Image.fromarray(thumbnail).save(packed, "JPEG")
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    order = "<" if block[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, first)
    place, start = first + 2 + 12 * count, len(block)
    block = bytearray(block)
    struct.pack_into(f"{order}I", block, place, start)
    offset = start + 2 + 2 * 12 + 4
    block += struct.pack(f"{order}HHHII", 2, 0x0201, 4, 1, offset)
    block += struct.pack(f"{order}HHIII", 0x0202, 4, 1, len(packed.getvalue()), 0)
    return b"Exif\0\0" + bytes(block) + packed.getvalue()


def test_metadata_are_read_as_they_were_written(tmp_path, photograph):
    found = metadata.metadata(with_exif(tmp_path, photograph)).found
    assert found["exif"]["Image"]["Model"] == "Model 1"
    assert found["gps"] == {"latitude": -33.51, "longitude": 151.0}
    assert found["maker_note_bytes"] == len("maker's note")
    assert found["software"][0]["kind"] == "editor or service"
    assert found["dates"]["EXIF DateTimeOriginal"] == "2020-01-01T12:00:00"
    assert "63 days after" in found["disagreements"][0]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="no exiftool here")
def test_metadata_agree_with_exiftool(tmp_path, photograph):
    path = with_exif(tmp_path, photograph)
    theirs = metadata.metadata(path).found["exiftool"]
    ours = metadata.metadata(path).found["exif"]
    assert theirs["IFD0:Model"] == ours["Image"]["Model"]
    assert theirs["IFD0:Software"] == ours["Image"]["Software"]
    assert theirs["ExifIFD:DateTimeOriginal"] == ours["Exif"]["DateTimeOriginal"]


def test_a_thumbnail_of_something_else_differs_from_its_image(tmp_path, photograph):
    small = cv2.resize(photograph, (160, 160), interpolation=cv2.INTER_AREA)
    bars = np.zeros((120, 160, 3), np.uint8)
    wide = photograph[128:384]  # 2:1 in a thumbnail of 4:3, as cameras do
    bars[20:100] = cv2.resize(wide, (160, 80), interpolation=cv2.INTER_AREA)
    cases = ((photograph, small), (wide, bars), (photograph, small[::-1]))
    alike, barred, other = (
        metadata.metadata(with_exif(tmp_path, image, thumb)).found["thumbnail"]
        for image, thumb in cases
    )
    assert alike["difference"] < 5 and alike["correlation"] > 0.99
    assert barred["height"] == 80 and barred["correlation"] > 0.99
    assert other["difference"] > 30 and other["correlation"] < 0.5


def test_xmp_properties_are_read_with_their_history(tmp_path, photograph):
    packet = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
    <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
      xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="GIMP 2.10"
      xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
      xmlns:dc="http://purl.org/dc/elements/1.1/"
      xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#">
    <dc:subject><rdf:Bag><rdf:li>one</rdf:li><rdf:li>two</rdf:li></rdf:Bag></dc:subject>
    <xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved"
      stEvt:softwareAgent="Adobe Photoshop 25"/></rdf:Seq></xmpMM:History>
    </rdf:Description></rdf:RDF></x:xmpmeta>"""
    found = metadata.metadata(save(tmp_path, photograph, xmp=packet.encode())).found
    assert found["xmp"]["dc:subject"] == ["one", "two"]
    names = {line["name"] for line in found["software"]}
    assert names == {"GIMP 2.10", "Adobe Photoshop 25"}


def test_the_recipe_of_an_image_generator_is_told(tmp_path, photograph):
    info = PngInfo()
    info.add_text("parameters", "a photograph of a cat, Steps: 20")
    path = save(tmp_path, photograph[:64, :64], "a.png", pnginfo=info)
    assert metadata.metadata(path).found["software"][0]["kind"] == "generator"


# JPEG


@pytest.mark.parametrize("quality", [40, 75, 92])
def test_both_tables_tell_the_quality_they_were_made_for(tmp_path, photograph, quality):
    path = save(tmp_path, photograph, quality=quality, subsampling=1, progressive=True)
    found = compression.jpeg(path).found
    for label in ("luminance", "chrominance"):
        assert found["quality"][label] == {
            "ijg": quality,
            "exact": True,
            "mean_difference": 0,
        }
    assert found["process"] == "progressive" and found["sampling"] == "4:2:2"


def test_tables_of_another_maker_are_not_called_the_standards(tmp_path, photograph):
    path = save(tmp_path, photograph, qtables=[[7] * 64, [9] * 64])
    found = compression.jpeg(path).found
    assert (
        found["tables"]["0"][3][3] == 7 and not found["quality"]["luminance"]["exact"]
    )


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_tables_and_sampling_are_those_that_libjpeg_reads(
    tmp_path, photograph, sampling
):
    tables = [[7 + i for i in range(64)], [9] * 64]
    path = save(
        tmp_path,
        photograph[:131, :197],
        qtables=tables,
        subsampling=sampling,
        progressive=sampling == 1,
    )
    found, theirs = compression.jpeg(path).found, jpeglib.read_dct(str(path))
    assert found["tables"] == {str(i): t.tolist() for i, t in enumerate(theirs.qt[:2])}
    first, rest = (factors[::-1] for factors in theirs.samp_factor[:2])  # down, across
    ratio = tuple(int(a // b) for a, b in zip(first, rest, strict=True))
    names = {(1, 1): "4:4:4 (none)", (2, 1): "4:2:2", (2, 2): "4:2:0"}
    assert found["sampling"] == names[ratio]
    assert (found["process"] == "progressive") == theirs.progressive_mode


def test_histograms_are_those_of_the_picture_that_is_decoded(tmp_path, photograph):
    path = tmp_path / "grey.jpg"
    Image.fromarray(photograph).convert("L").save(path, quality=50)
    grey = np.asarray(Image.open(path)).astype(np.float32) - 128
    blocks = grey.reshape(64, 8, 64, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    cosines = np.stack([cv2.dct(block) for block in blocks])
    for one in compression.earlier(path)["histograms"]:
        place = one["row"], one["column"]
        table = compression.scaled(compression._LUMINANCE, 50)
        assert one["step"] == table[place]
        sizes = np.abs(np.rint(cosines[:, *place] / one["step"])).astype(int)
        shares = np.bincount(np.minimum(sizes, 24), minlength=25) / len(sizes)
        np.testing.assert_allclose(one["seen"], shares, atol=0.003)  # clipped pixels


@pytest.mark.parametrize(("first", "second"), [(60, 90), (80, 90), (70, 75)])
def test_an_earlier_compression_is_found_with_its_quality(
    tmp_path, photograph, first, second
):
    once = save(tmp_path, photograph, "once.jpg", quality=first)
    twice = save(tmp_path, np.asarray(Image.open(once)), "twice.jpg", quality=second)
    found = compression.earlier(twice)
    assert found["claimed"] and abs(found["quality"] - first) <= 1
    for one in found["histograms"]:
        apart = {
            k: np.abs(np.subtract(one["seen"], one[k])).sum()
            for k in one
            if k in ("once", "twice")
        }
        assert apart["twice"] <= apart["once"] + 1e-9
    finding = compression.jpeg(twice)
    assert {"histograms.png", "grid.jpg"} == {*finding.pictures}
    assert f"quality {found['quality']} before" in finding.captions["histograms.png"]


@pytest.mark.parametrize("quality", [60, 75, 90, 97])
def test_a_single_compression_is_not_taken_for_two(tmp_path, photograph, quality):
    found = compression.earlier(save(tmp_path, photograph, quality=quality))
    assert found["claimed"] is False


def test_the_grid_of_a_part_that_was_moved_lies_elsewhere(tmp_path, photograph):
    path = save(tmp_path, photograph, quality=60)
    once = np.asarray(Image.open(path).convert("L"))
    assert compression.grid_map(once)[0]["elsewhere"] == 0
    moved = once.copy()
    moved[:256] = np.roll(once, (5, 3), axis=(0, 1))[:256]
    grid, cells = compression.grid_map(moved)
    assert {(o["x"], o["y"]) for o in grid["origins_elsewhere"]} == {(3, 5)}
    assert not (cells[:2] == 0).any() and not (cells[2:] == 1).any()
    assert (cells[:2] == 1).any() and (cells[2:] == 0).any()


# Provenance


@pytest.fixture(scope="module")
def signing() -> dict[str, str]:
    """An authority of our own (`root`), a signer's certificates (`chain`) and `key`."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject, issuer, key, by, authority):
        name = lambda text: x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Press of the tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, text),
            ]
        )
        usage = ("content_commitment", "key_encipherment", "data_encipherment")
        usage += ("key_agreement", "encipher_only", "decipher_only")
        built = (
            x509.CertificateBuilder(name(issuer), name(subject), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority,
                    key_cert_sign=authority,
                    crl_sign=authority,
                    **dict.fromkeys(usage, False),
                ),
                critical=True,
            )
        )
        if not authority:
            mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            built = built.add_extension(mail, critical=False)
        signed = built.sign(by, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("root", "root", ours, ours, True)
    key = theirs.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain = certificate("signer", "root", theirs, ours, False) + root
    return {"root": root, "chain": chain, "key": key.decode()}


def signed(folder: Path, image: np.ndarray, signing, *, remote: str = "") -> Path:
    """A JPEG file with credentials that claim an edit by a generative model."""
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    actions = [
        {"action": "c2pa.created", "digitalSourceType": f"{source}digitalCapture"},
        {"action": "c2pa.edited", "digitalSourceType": f"{source}algorithmicMedia"},
    ]
    claims = {
        "claim_generator_info": [{"name": "<script>alert(1)</script>"}],
        "title": "<script>alert(2)</script>",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    pair = signing["chain"].encode(), signing["key"].encode()
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", *pair, None))
    before, after = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(before, "JPEG")
    before.seek(0)
    with c2pa.Builder(claims) as builder:
        if remote:
            builder.set_no_embed()
            builder.set_remote_url(remote)
        builder.sign(signer, "image/jpeg", before, after)
    path = folder / "signed.jpg"
    path.write_bytes(after.getvalue())
    return path


def test_credentials_are_valid_or_trusted_or_invalid_or_none(
    tmp_path, photograph, signing
):
    image = photograph[:96, :96]
    path = signed(tmp_path, image, signing)
    finding = provenance.provenance(path)
    found = finding.found
    assert (found["state"], found["signer"]) == (
        "valid, unknown signer",
        "Press of the tests",
    )
    assert found["problems"] == ["signingCredential.untrusted"]
    assert [a["action"] for a in found["actions"]] == ["c2pa.created", "c2pa.edited"]
    assert any("generative model" in sentence for sentence in finding.summary)
    trusted = provenance.provenance(path, signing["root"]).found
    assert (trusted["state"], trusted["problems"]) == ("valid, trusted signer", [])

    whole = path.read_bytes()
    for place, code in ((-20, "dataHash"), (len(whole) // 2, "hashedURI")):
        changed = bytearray(whole)
        changed[place] ^= 1  # of the pixels; of what is claimed
        path.write_bytes(changed)
        for authorities in ("", signing["root"]):
            bad = provenance.provenance(path, authorities).found
            assert bad["state"] == "invalid"
            assert any(code in problem for problem in bad["problems"])
    # What a program that knows of no credentials leaves of them.
    Image.open(io.BytesIO(whole)).save(path)
    assert provenance.provenance(path).found == {"state": "none"}


def test_credentials_that_lie_elsewhere_are_not_fetched(tmp_path, photograph, signing):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        path = signed(tmp_path, photograph[:96, :96], signing, remote=address)
        found = provenance.provenance(path).found
        assert found == {"state": "elsewhere", "address": address}
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_case_trusts_the_authorities_that_it_is_given(tmp_path, photograph, signing):
    path = signed(tmp_path, photograph[:96, :96], signing)
    (tmp_path / "root.pem").write_text(signing["root"])
    out = tmp_path / "case"
    options = [str(path), f"--out={out}", "--network=none", "--workers=1"]
    for trusted, state in (([], "unknown"), (["--trusted=root.pem"], "trusted")):
        with contextlib.chdir(tmp_path):
            main([*options, *trusted])
        evidence = json.loads((out / "signed.jpg" / "evidence.json").read_text())
        found = evidence["lines"]["provenance"]["found"]
        assert found["state"] == f"valid, {state} signer"
    page = (out / "signed.jpg" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(2)" in page
    with pytest.raises(SystemExit):
        main([*options, f"--trusted={path}"])


# Copy-move, aids


def test_a_copied_part_is_found_with_its_shift(photograph, tmp_path):
    copied = photograph.copy()
    copied[300:460, 20:180] = photograph[20:180, 180:340]
    found = copy_move.copy_move(save(tmp_path, copied, quality=90)).found
    assert found["claimed"] and found["scale"] == pytest.approx(1, abs=0.02)
    assert sorted(map(abs, found["shift"])) == pytest.approx([160, 280], abs=1)
    clean = copy_move.copy_move(save(tmp_path, photograph, quality=90)).found
    assert not clean["claimed"]
    assert found["following_one_transformation"] > 5 * found["most_by_chance"]


def test_error_levels_are_high_where_a_part_was_never_compressed(photograph, tmp_path):
    once = np.asarray(Image.open(save(tmp_path, photograph, quality=90))).copy()
    once[200:300, 200:300] = photograph[200:300, 200:300]
    level = aids.error_level(once, 90).mean(axis=2)
    assert level[200:300, 200:300].mean() > 1.5 * level[50:150, 50:150].mean()


# What changes nothing


def test_a_comment_changes_no_finding_but_that_of_the_file(tmp_path, photograph):
    image = photograph[:200, :200]
    plain = save(tmp_path, image, "a.jpg", quality=85)
    noted = save(tmp_path, image, "b.jpg", quality=85, comment=b"thirteen byte")
    for name, line in EVIDENCE.items():
        if name != "file":
            one, other = line(plain), line(noted)
            assert one.found == other.found and one.summary == other.summary, name
            assert one.pictures == other.pictures, name


# Isolation


def _crash(path):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(path):
    import time

    time.sleep(60)


def _eat(path):
    return np.ones(4_000_000_000, np.uint8)


@pytest.mark.parametrize(
    ("function", "words"),
    [(_crash, "SIGSEGV"), (_hang, "seconds"), (_eat, "memory|allocate")],
)
def test_a_parser_that_dies_costs_one_line(function, words):
    with Workers(1, seconds=3, megabytes=1000) as pool:
        with pytest.raises(InputError, match=words):
            pool.result(pool.start(function, "a"))
        assert pool.result(pool.start(len, "abc")) == 3


# The case


@pytest.fixture
def case(tmp_path, photograph) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    save(folder, photograph[:96, :96], "a.jpg")
    save(folder, photograph[96:192, :96], "b.png")
    (folder / "c.jpg").write_text("no image")
    out = tmp_path / "case"
    main([str(folder), f"--out={out}", "--network=none", "--workers=1"])
    return out


def test_a_case_holds_reports_and_a_log_that_verify(case, capsys):
    folders = {path.name for path in case.iterdir() if path.is_dir()}
    assert folders == {"a.jpg", "b.png", "c.jpg"}
    for folder in folders:
        evidence = json.loads((case / folder / "evidence.json").read_text())
        assert list(evidence["lines"]) == list(EVIDENCE)
        assert evidence["unchanged"]
        assert evidence["verdict"]["verdict"] == "inconclusive"
        for line in evidence["lines"].values():
            assert line["summary"] and line["limits"]
        assert (case / folder / "report.html").exists()
    lines = json.loads((case / "c.jpg" / "evidence.json").read_text())["lines"]
    assert lines["file"]["state"] == "done" and lines["jpeg"]["state"] == "failed"
    index = (case / "index.html").read_text()
    assert "Case of 3 photographs" in index and "<th>JPEG quality</th>" in index
    assert "<th>camera</th>" not in index  # none is named
    found = verify(case)
    assert not found["problems"] and found["photographs"] == 3
    capsys.readouterr()
    main([f"--verify={case}"])
    assert json.loads(capsys.readouterr().out)["head"] == found["head"]

    # What was changed, added, taken away is named; a broken chain is refused.
    (case / "a.jpg" / "report.html").write_text("all is well")
    (case / "b.png" / "photograph.jpg").unlink()
    (case / "more.txt").write_text("more")
    named = {problem.split(":")[0] for problem in verify(case)["problems"]}
    assert named == {"a.jpg/report.html", "b.png/photograph.jpg", "more.txt"}
    with pytest.raises(SystemExit):
        main([f"--verify={case}"])
    text = (case / "log.jsonl").read_text()
    for changed in (
        text.replace('"action": "opened"', '"action": "closed"'),
        "".join(text.splitlines(keepends=True)[1:]),
        text + "{}\n",
        text[:-1],
    ):
        (case / "log.jsonl").write_text(changed)
        with pytest.raises(InputError, match="log.jsonl"):
            verify(case)


def test_a_case_goes_on_where_it_was_killed(case, tmp_path, photograph):
    photos = tmp_path / "photos"
    whole = (case / "log.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["action"] for line in lines] == [
        "opened",
        *["examined"] * 3,
        "closed",
    ]
    # Killed while the log of the second photograph was written.
    (case / "log.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:40])
    shutil.rmtree(case / "c.jpg")
    before = (case / "a.jpg" / "evidence.json").stat().st_mtime_ns
    rows = list(Case(case).examine([str(photos)], workers=1))
    assert [row.get("kept", False) for row in rows] == [True, False, False]
    assert (case / "a.jpg" / "evidence.json").stat().st_mtime_ns == before
    assert not verify(case)["problems"]
    # A photograph that changed is examined anew.
    save(photos, photograph[:96, 96:192], "a.jpg")
    rows = list(Case(case).examine([str(photos)], workers=1))
    assert [row.get("kept", False) for row in rows] == [False, True, True]
    assert not verify(case)["problems"]


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_one_photograph_at_most(tmp_path, photograph):
    photos, out = tmp_path / "photos", tmp_path / "case"
    photos.mkdir()
    for i in range(8):
        save(photos, photograph[8 * i : 8 * i + 64, :64], f"{i}.jpg")
    command = [sys.executable, "-m", "sdfl_jax.examine", str(photos)]
    command += [f"--out={out}", "--network=none", "--workers=1"]
    log = out / "log.jsonl"
    examined = lambda: log.read_text().count('"examined"') if log.exists() else 0
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while examined() < 3 and running.poll() is None:
            time.sleep(0.05)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    done = examined()
    rows = list(Case(out).examine([str(photos)], workers=1))
    assert [row.get("kept", False) for row in rows] == [i < done for i in range(8)]
    assert 3 <= done < 8 and not verify(out)["problems"]


def test_strange_names_and_hostile_metadata_are_shown_as_text(tmp_path, photograph):
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    exif = Image.Exif()
    exif[0x010E] = exif[0x0131] = exif[0x0110] = attack
    name = "=cmd <b>&\n\u202e\udcff %s '.jpg"
    folder = tmp_path / "photos"
    folder.mkdir()
    path = save(folder, photograph[:64, :64], exif=exif).rename(folder / name)
    out = tmp_path / "case"
    (row,) = Case(out).examine([str(path)], workers=1)
    target = out / row["folder"]
    for page in (target / "report.html", out / "index.html"):
        text = page.read_text()
        assert "<script" not in text and "<img src=x" not in text and "<b>&" not in text
        assert "&lt;script&gt;alert(1)" in text
    assert (target / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "\n'=cmd" in (out / "case.csv").read_text()
    assert row["lines_failed"] == ""  # its name stops no line
    assert not verify(out)["problems"]


def test_names_become_folders_of_their_own():
    names = [
        "a.jpg",
        "a/b.jpg",
        "a_b.jpg",
        "../x",
        ".",
        "index.html",
        "\udcff",
        "é" * 300,
    ]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names) and folders[0] == "a.jpg"
    for folder in folders:
        assert "/" not in folder and not folder.startswith(".") and len(folder) < 130


def test_bad_input_gets_one_line(tmp_path, capsys, case):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("")
    photos = str(tmp_path / "photos")
    for arguments, words in (
        ([photos], "--out=CASE"),
        (
            [photos, f"--out={tmp_path / 'new'}", "--workdir=a", "--network=b"],
            "give one of them",
        ),
        ([photos, f"--out={other}", "--network=none"], "something else"),
        (["nowhere", f"--out={tmp_path / 'new'}", "--network=none"], "nowhere"),
        ([f"--verify={other}"], "no case"),
        ([photos, f"--out={case}", "--network=none", "--workers=0"], "--workers=0"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as status:
            main(arguments)
        error = capsys.readouterr().err
        assert status.value.code == 2 and error.count("\n") == 1 and words in error
    assert not (tmp_path / "new").exists()


def test_every_line_has_a_title():
    assert set(TITLES) == {*EVIDENCE, "network"}


def test_the_workers_do_not_load_jax():
    code = "import sys, sdfl_jax.examine.evidence; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# The network


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return tiny.write_run(tmp_path_factory.mktemp("run"))


def test_a_case_with_a_network_tells_its_verdict_and_its_weights(
    workdir, tmp_path, photograph
):
    path = save(tmp_path, photograph[:96, :128])
    out = tmp_path / "case"
    main([str(path), f"--out={out}", f"--workdir={workdir}", "--workers=1"])
    evidence = json.loads((out / "photo.jpg" / "evidence.json").read_text())
    line = evidence["lines"]["network"]
    assert line["state"] == "done" and {"overlay.jpg", "mask.png"} <= {
        *line["pictures"]
    }
    assert line["found"]["weights_sha256"] == evidence["network"]
    assert line["found"]["input"] == {
        "resized_to": [32, 32],
        "tiles": 1,
        "second_look": None,
    }
    assert line["found"]["smallest_edit"] == 64  # 16 pixels of 32, in 128
    after = line["found"]["after_resave"]
    assert after["whole_image"] and after["score_before"] == line["found"]["score"]
    # Never calibrated: whatever its score, nothing follows.
    assert evidence["verdict"]["verdict"] == "inconclusive"
    assert not verify(out)["problems"]


@pytest.mark.parametrize(
    "size, again", [((100, 200), [150, 300]), ((600, 800), None), ((20, 900), None)]
)
def test_a_second_look_is_told(size, again):
    settings = {"geometry": "crop", "again": SecondLook(1.5)}
    seen = network._input(settings, np.zeros((*size, 3)))
    assert seen == {"resized_to": None, "tiles": 1, "second_look": again}


def test_the_part_that_is_saved_again_is_the_one_most_marked():
    mask = np.zeros((900, 1200), bool)
    middle = network._most_marked(mask, 256)
    assert middle == (1200 // 2 - 128, (900 // 2 - 128) // 8 * 8)
    mask[100:110, 100:110] = mask[700:800, 1050:1150] = True
    x, y = network._most_marked(mask, 256)
    assert x <= 1050 and 1150 <= x + 256 <= 1200 and y <= 700 and 800 <= y + 256 <= 900
    assert x % 8 == y % 8 == 0
    assert network._most_marked(mask[:, :200], 256) == (0, 0)


def test_a_verdict_follows_the_band_and_never_a_number_that_is_none():
    calibration = {"band": [0.3, 0.7]}
    said = [verdict(s, calibration) for s in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0)]
    nothing, unsure, found = VERDICTS
    assert said == [nothing, nothing, unsure, unsure, found, found]
    assert verdict(float("nan"), calibration) == verdict(0.9, None) == unsure


def test_a_calibration_beside_the_checkpoints_decides(workdir, photograph):
    path = workdir / checkpoint.CALIBRATION
    known = {"band": [0, 0], "false_alarms": 0.05, "data": "ten photographs"}
    path.write_text(json.dumps(known))
    try:
        said = network.judged(Predictor(workdir), 0.4)
        assert said["verdict"] == "manipulated" and "5.0%" in said["why"]
        assert "ten photographs" in said["why"]
        path.write_text('{"band": [0.7, 0.2]}')
        with pytest.raises(InputError, match="band of 0.7 to 0.2"):
            Predictor(workdir)
    finally:
        path.unlink()


# Hostile files


def test_damaged_files_of_every_kind_cost_no_more_than_their_lines(tmp_path):
    rng = np.random.default_rng(0)
    with Workers(1, seconds=30) as pool:
        for kind, data in list(fuzz.kinds(fuzz.smooth()).items())[::4]:
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 6):
                damaged[place] = rng.integers(0, 256)
            path = tmp_path / kind.replace(" ", "_")
            path.write_bytes(damaged[: rng.integers(len(data) // 2, len(data) + 1)])
            for line in EVIDENCE:
                try:
                    finding, _ = pool.result(pool.start(examine_line, line, path, {}))
                    assert finding.summary, (kind, line)
                except InputError as error:
                    assert "\n" not in str(error), (kind, line)


def test_a_decompression_bomb_is_refused_by_its_size(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(60_000_000), 9)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body))
            + name
            + body
            + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    # By our own limit, or by Pillow's where a process keeps that.
    told = "60000x60000|3600000000 pixels"
    assert re.search(told, structure.file(path).found["unreadable"])
    for line in (compression.jpeg, copy_move.copy_move, aids.aids):
        with pytest.raises((InputError, Image.DecompressionBombError), match=told):
            line(path)


def claims(kind: str, width: int, height: int) -> bytes:
    """A small file whose header claims so many pixels."""
    packed = io.BytesIO()
    Image.new("RGB", (8, 8)).save(packed, kind)
    data = bytearray(packed.getvalue())
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
        struct.pack_into("<HH", data, data.index(b",\0\0\0\0") + 5, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    else:  # entries of a TIFF directory: tag, type, count, value
        for tag, value in ((256, width), (257, height)):
            place = data.index(struct.pack("<HHI", tag, 4, 1))
            struct.pack_into("<I", data, place + 8, value)
    return bytes(data)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "TIFF"])
def test_a_file_that_claims_too_many_pixels_costs_lines_and_no_memory(tmp_path, kind):
    path = tmp_path / f"bomb.{kind.lower()}"
    path.write_bytes(claims(kind, 65_000, 65_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert structure.file(path).found["unreadable"]
    for line in (compression.jpeg, copy_move.copy_move, aids.aids, network.pixels):
        with pytest.raises((InputError, Image.DecompressionBombError), match="pixels"):
            line(path)
    metadata.metadata(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kB, where its pixels would take twelve million


def test_entities_that_multiply_are_not_followed(tmp_path, photograph):
    packet = (
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
        + "".join(
            f'<!ENTITY a{i} "{10 * ("&a" + (str(i - 1) if i > 1 else "") + ";")}">'
            for i in range(1, 9)
        )
        + "]><x>&a8;</x>"
    )
    found = metadata.metadata(save(tmp_path, photograph, xmp=packet.encode())).found
    assert not found["xmp"] and "XMP" in found["problems"][0]


def test_fifty_megabytes_of_metadata_fit_in_a_small_report(tmp_path, photograph):
    data = save(tmp_path, photograph[:64, :64]).read_bytes()
    segment = b"\xff\xe1\xff\xff" + b"<script>" * 8191 + b"<scri"
    path = tmp_path / "large.jpg"
    path.write_bytes(data[:2] + segment * 800 + data[2:])
    out = tmp_path / "case"
    (row,) = Case(out).examine([str(path)], workers=1)
    assert row["bytes"] > 50_000_000 and row["format"] == "JPEG"
    target = out / row["folder"]
    for name in ("evidence.json", "report.html", "report.pdf"):
        assert (target / name).stat().st_size < 3_000_000
    assert "<script" not in (target / "report.html").read_text()
    found = json.loads((target / "evidence.json").read_text())["lines"]["file"]["found"]
    assert found["parts_in_all"] > 800 and found["bytes_behind_end"] == 0
