"""Where the mask is to be believed: a head of its own, from training to the page."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax import losses, models
from sdfl_jax.config import check, of_network
from sdfl_jax.data import tiling
from sdfl_jax.errors import InputError
from sdfl_jax.models.outputs import Outputs, with_confidence
from sdfl_jax.predict import serve
from sdfl_jax.predict.output_folder import predict
from sdfl_jax.predict.predictor import Predictor
from sdfl_jax.train import train
from tests import tiny

SMALL = dict(encoder="tiny", width=8, pyramid_width=8, bins=(1,), noise_branch=False)


def test_the_score_is_the_highest_probability_that_is_believed():
    mask = jnp.log(jnp.array([9.0, 4.0]) / 1).reshape(1, 1, 2, 1)  # 0.9 and 0.8
    confidence = jnp.log(jnp.array([1.0, 3.0])).reshape(1, 1, 2, 1)  # 0.5 and 0.75
    outputs = Outputs(mask, jnp.zeros(1))
    weighted = with_confidence(outputs, confidence, "confidence")
    np.testing.assert_allclose(weighted.image_score(), [0.8 * 0.75], rtol=1e-6)
    plain = with_confidence(outputs, confidence, "label")
    np.testing.assert_allclose(plain.image_score(), [0.5])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sdfl", SMALL),
        ("segformer", dict(encoder="tiny", width=8, dropout=0.0)),
    ],
    ids=["sdfl", "segformer"],
)
def test_its_loss_moves_its_head_alone(name, settings):
    model = models.build(name, **settings, confidence=True)
    variables = models.init_variables(model, 32, jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    mask = jnp.zeros((2, 32, 32, 1)).at[0, :20].set(1)

    def loss(params):
        outputs, _ = model.apply(
            variables | {"params": params}, image, train=True, mutable=["batch_stats"]
        )
        keep = jnp.ones(2, bool)
        return losses.confidence_mse(
            outputs.confidence_logits, outputs.mask_logits, mask, keep
        )

    grads = jax.jit(jax.grad(loss))(variables["params"])
    moved = {
        part for part, tree in grads.items() if any(map(np.any, jax.tree.leaves(tree)))
    }
    assert moved == {"confidence_head"}
    # The mask is that of the network without it.
    plain = models.build(name, **settings)
    without = {
        kind: {part: x for part, x in tree.items() if part != "confidence_head"}
        for kind, tree in variables.items()
    }
    expected = plain.apply(without, image, train=False)
    found = model.apply(variables, image, train=False)
    np.testing.assert_array_equal(found.mask_logits, expected.mask_logits)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="needs a confidence"):
        models.build("upernet", score="confidence")
    with pytest.raises(InputError, match="No score 'mask'"):
        models.build("segformer", score="mask", confidence=True)
    config = of_network("sdfl", confidence=True)
    config.total_steps = 1
    assert check(config).loss_weights.confidence == 1
    config.loss_weights.confidence = 0.0
    with pytest.raises(InputError, match="nothing else trains that head"):
        check(config)


def test_tiles_of_both_maps_are_blended_alike():
    rng = np.random.default_rng(0)
    example = {"name": "a", "index": 0, "height": 40, "width": 32}
    boxes = [(0, 0, 32, 32), (8, 0, 32, 32)]
    tiles = [tiling.Tile(example, 0, box, 2, overlap=16) for box in boxes]
    maps = rng.random((2, 32, 32, 2), np.float32)
    batch = tiling.Batch({}, tiles, [])
    ((_, both, score),) = tiling.Assembler().add(batch, maps, np.array([0.1, 0.2]))
    for k in range(2):
        ((_, one, _),) = tiling.Assembler().add(batch, maps[..., k], np.zeros(2))
        np.testing.assert_allclose(both[..., k], one, rtol=1e-6)
    assert score == 0.2


def test_it_is_trained_scored_and_shown(tmp_path):
    from sdfl_jax.evaluate.options import Options
    from sdfl_jax.evaluate.scoring import evaluate

    shards = tiny.write_shards(tmp_path / "data", 8)
    config = tiny.config(shards, shards, total_steps=1, validate_every=1)
    config.model = {"name": "sdfl", **SMALL, "confidence": True}
    config.loss_weights = {"mask": 0.16, "label": 0.04, "confidence": 1.0}
    train(config, str(tmp_path / "run"))
    log = (tmp_path / "run/metrics.jsonl").read_text()
    assert "loss/confidence" in log

    options = Options(
        workdir=str(tmp_path / "run"), data=shards, out=str(tmp_path / "report")
    )
    evaluate(options)
    rows = (tmp_path / "report/per_image.csv").read_text().splitlines()
    column = rows[0].split(",").index("confidence")
    for row in rows[1:]:
        name, mean = row.split(",")[0], float(row.split(",")[column])
        saved = cv2.imread(str(tmp_path / "report/confidence" / name), 0)
        assert saved.mean() / 255 == pytest.approx(mean, abs=5e-3)
    assert "<figcaption>confidence" in (tmp_path / "report/report.html").read_text()

    photo = tmp_path / "data/images/1.png"
    network = Predictor(str(tmp_path / "run"))
    (line,) = predict(lambda: network, str(tmp_path / "out"), [str(photo)])
    shown = cv2.imread(line["confidence"], 0)
    assert shown.mean() / 255 == pytest.approx(line["mean_confidence"], abs=5e-3)
    answer = network.predict(str(photo))
    sent = serve._as_json(answer)
    assert sent["confidence"].startswith("data:image/png;base64,")
    json.dumps(sent, allow_nan=False)
