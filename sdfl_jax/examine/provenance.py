"""The line `provenance`: C2PA content credentials, their signature and their claims."""

import json
from pathlib import Path

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.examine.finding import Finding, plain, text
from sdfl_jax.examine.structure import kind

_TYPES = {  # what the reader takes, by the format that the first bytes tell
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "HEIC": "image/heic",
    "HEIF": "image/heif",
    "AVIF": "image/avif",
}
_UNTRUSTED = "signingCredential.untrusted"
# What a file names is not asked for: an address in it is whoever wrote it's choice.
_ALONE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_ELSEWHERE = "must fetch remote manifests from url "


def provenance(path: Path, trusted: str = "") -> Finding:
    """One of: none, valid (signer trusted or unknown), invalid; and what is claimed.

    `trusted` holds certificates of authorities (PEM) whose signers are trusted. Nothing
    is fetched: credentials that lie elsewhere are told by their address.

    Raises `InputError` where `c2pa-python` is not installed.
    """
    try:
        import c2pa
    except ImportError:
        raise InputError(
            "c2pa-python is not installed: pip install sdfl-jax[examine]."
        ) from None
    mime = _TYPES.get(kind(images.read_bytes(path)[:64])[0] or "")
    settings = _ALONE | ({"trust": {"user_anchors": trusted}} if trusted else {})
    found = {"state": "none"}
    if mime:
        try:
            with (
                path.open("rb") as stream,
                c2pa.Context.from_dict(settings) as context,
                c2pa.Reader(mime, stream, context=context) as reader,
            ):
                found = _found(json.loads(reader.json()))
        except c2pa.C2paError as error:
            said = str(error)
            if _ELSEWHERE in said:
                address = said.partition(_ELSEWHERE)[2]
                found = {"state": "elsewhere", "address": text(address)}
            elif "ManifestNotFound" not in said and "no JUMBF" not in said:
                raise InputError(
                    f"the credentials cannot be read ({text(error)})."
                ) from None
    return Finding(
        _said(found),
        certainty="Cryptographic: a valid signature means that these bytes are the "
        "ones which its holder signed. Whether the holder is who it claims to be needs "
        "a list of trusted signers.",
        limits="Credentials tell what a signer claims. Without them nothing follows: "
        "almost all photographs have none, and any upload may remove them.",
        found=found,
    )


def _found(store: dict) -> dict:
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    problems = [
        text(line.get("code", "")) for line in store.get("validation_status", [])
    ]
    if store.get("validation_state") == "Trusted":
        state = "valid, trusted signer"
    elif store.get("validation_state") == "Valid" or set(problems) == {_UNTRUSTED}:
        state = "valid, unknown signer"
    else:
        state = "invalid"
    signature = active.get("signature_info", {})
    return plain(
        {
            "state": state,
            "problems": problems,
            "signer": signature.get("issuer"),
            "common_name": signature.get("common_name"),
            "signed": signature.get("time"),
            "made_by": active.get("claim_generator_info")
            or active.get("claim_generator"),
            "title": active.get("title"),
            "actions": [
                {k: v for k, v in action.items() if k in _ACTION}
                for assertion in active.get("assertions", [])
                if str(assertion.get("label", "")).startswith("c2pa.actions")
                for action in assertion.get("data", {}).get("actions", [])
            ],
            "assertions": [a.get("label") for a in active.get("assertions", [])],
            "ingredients": [i.get("title") for i in active.get("ingredients", [])],
            "manifests": len(store.get("manifests", {})),
        }
    )


_ACTION = ("action", "when", "softwareAgent", "digitalSourceType", "description")


def _said(found: dict) -> list[str]:
    if found["state"] == "none":
        return ["No content credentials. That is a result, and no sign of anything."]
    if found["state"] == "elsewhere":
        return [
            f"Its content credentials lie at {found['address']}, and were not fetched."
        ]
    lines = [f"Content credentials: {found['state']}."]
    if found["state"] == "invalid":
        lines.append(f"What does not hold: {', '.join(found['problems'])}.")
    if found["signer"]:
        lines.append(f"Signed by {found['signer']}.")
    actions = [str(action.get("action")) for action in found["actions"]]
    if actions:
        lines.append(f"It claims these actions: {', '.join(actions)}.")
    generated = [
        action
        for action in found["actions"]
        if "algorithmicMedia" in str(action.get("digitalSourceType", ""))
        or "AlgorithmicMedia" in str(action.get("digitalSourceType", ""))
    ]
    if generated:
        lines.append("It says of itself that a generative model made it, or a part.")
    return lines
