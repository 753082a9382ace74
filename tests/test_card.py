"""What a checkpoint says of itself."""

import hashlib
import json

import numpy as np
import optax
import pytest

from sdfl_jax.checkpoints import card
from sdfl_jax.checkpoints.saving import Checkpoints
from sdfl_jax.config import check
from sdfl_jax.data.audit import __main__ as audit_command
from sdfl_jax.errors import InputError
from sdfl_jax.state import init_state
from tests import tiny

FIGURES = {"pixel_f1_manipulated": 0.625, "image_auc": None}
PROGRESS = {
    "step": 2,
    "best": {"figure": "pixel_f1_manipulated", "value": 0.625, "step": 2},
    "metrics": {"standard": FIGURES, "reference": {"confusion": {"tp": 3}}},
    "loss": {"loss": 0.5},
    "pixel_threshold": 0.25,
    "image_threshold": None,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (
        tiny.write_shards(folder / "train", 16),
        tiny.write_shards(folder / "val", 8, seed=1),
    )


@pytest.fixture
def audited(shards, tmp_path):
    """The audit of the lists behind the shards, whose groups have the same names."""
    train, test = (f"{path}/../images/paths.csv" for path in shards)
    out = tmp_path / "audit"
    flags = [f"--train={train}", f"--test={test}", f"--out={out}", "--names_only"]
    assert audit_command.main(flags) == 1
    return out


def test_every_checkpoint_carries_its_card(shards, audited, tmp_path):
    config = check(tiny.config(*shards, data__audit=str(audited)))
    state = init_state(
        {"params": {"a": np.ones(2, np.float32)}, "batch_stats": {}}, optax.identity()
    )
    described = card.describe(
        config.to_dict(), train=shards[0], val=shards[1], audit=str(audited)
    )
    checkpoints = Checkpoints(tmp_path, keep=1, model_card=described)
    checkpoints.save(state, PROGRESS)
    assert not (tmp_path / card.FILE).exists()  # the best one's is what people read
    checkpoints.save_best(state, PROGRESS)
    checkpoints.close()

    _, progress = Checkpoints(tmp_path, keep=1).restore(state)
    carried = progress.pop("card")
    assert progress == PROGRESS
    assert carried["step"] == int(state.step)
    assert carried["scores"]["standard"] == FIGURES
    assert carried["config"] == json.loads(json.dumps(config.to_dict()))
    for split, folder in zip(("train", "val"), shards, strict=True):
        with open(f"{folder}/manifest.json", "rb") as file:
            expected = hashlib.sha256(file.read()).hexdigest()
        assert carried["data"][split]["manifest_sha256"] == expected
    assert carried["data"]["train"]["sources"] == {"tiny": {"0": 8, "1": 8}}
    assert {"jax", "flax", "sdfl_jax"} <= carried["versions"].keys()
    assert carried["audit"]["leaks"] == {"test": 8}
    assert carried["audit"]["findings"] == {"same_group": 8}
    lines = (tmp_path / card.FILE).read_text().splitlines()
    for line in (
        "# Model card: sdfl, step 0",
        f"- manifest_sha256: {expected}",
        "- sources: tiny 0 8, 1 8",
        "- leaks: test 8",
        "- pixel_f1_manipulated: 0.625",
        "- image_auc: -",
        "- optimizer.lr: 0.001",
    ):
        assert line in lines


def test_a_checkpoint_before_any_validation_says_so(shards, tmp_path):
    settings = check(tiny.config(*shards)).to_dict()
    described = card.describe(settings, train=shards[0], val=shards[1])
    carried = card.with_scores(described, 1, {})
    assert carried["scores"] is None and carried["audit"] is None
    card.write(tmp_path, carried)
    assert "Not validated yet" in (tmp_path / card.FILE).read_text()


def test_an_audit_is_found_beside_the_shards(audited, tmp_path):
    found = card.read_audit("", beside=str(tmp_path / "train"))
    assert found == card.read_audit(str(audited / "findings.csv"))
    with pytest.raises(InputError, match=r"no findings\.csv there"):
        card.read_audit(str(tmp_path / "nowhere"))
    (tmp_path / "findings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not what"):
        card.read_audit(str(tmp_path))


def test_a_mix_is_told_set_by_set(shards):
    config = check(tiny.config(*shards)).to_dict()
    text = f"first={shards[0]}:5,second={shards[1]}"
    told = card.describe(config, train=text, val=shards[1])
    assert list(told["data"]["train"]) == ["first", "second"]
    first, second = told["data"]["train"].values()
    assert (first["drawn_per_epoch"], first["examples"]) == (5, 16)
    assert second["drawn_per_epoch"] == second["examples"] == 8
    lines = card.markdown(card.with_scores(told, 1, {})).splitlines()
    assert any(line.startswith("- first: drawn_per_epoch 5") for line in lines)
