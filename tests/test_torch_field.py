"""PyTorch's side of the benchmark of networks computes what ours does."""

import functools

import jax
import numpy as np
import pytest

from sdfl_jax import models, weights

torch = pytest.importorskip("torch", reason="no PyTorch: only benchmarks need it")
torch_networks = pytest.importorskip("benchmarks.torch_networks")  # before timm
pytest.importorskip("timm", reason="no timm: only benchmarks need it")
pytestmark = pytest.mark.slow
SIDE = 64
SETTINGS = {"trufor": {"phase": 2}}
# A frozen layer with its adapters, by peft's names.
RENAMED = {".layer.": ".", ".down.": ".lora_A.", ".up.": ".lora_B."}


@pytest.mark.parametrize("name", ["vit_lora", "mesorch", "catnet", "trufor"])
def test_the_same_weights_give_the_same_logits(name):
    torch.manual_seed(0)
    peer = torch_networks.PEERS[name](SIDE)
    with torch.no_grad():  # no zero hides a term, and no 1 a factor
        for tensor in peer.state_dict().values():
            if tensor.is_floating_point() and (tensor.ndim < 2 or not tensor.any()):
                tensor.add_(0.1 * torch.rand_like(tensor))
    peer.eval()
    arrays = {}
    for key, tensor in peer.state_dict().items():
        for theirs, ours in RENAMED.items() if "qkv" in key else ():
            key = key.replace(theirs, ours)
        if not key.endswith("num_batches_tracked"):
            arrays[key] = tensor.numpy()
    settings = SETTINGS.get(name, {})
    variables = weights.from_torch(name, arrays, **settings)
    image = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    others = getattr(peer, "random_inputs", lambda *_: [])(2, SIDE)
    with torch.no_grad():
        theirs = peer(torch.tensor(image).permute(0, 3, 1, 2), *others)
    apply = jax.jit(
        functools.partial(models.build(name=name, **settings).apply, train=False)
    )
    named = dict(zip(("dct", "qtable"), (x.numpy() for x in others), strict=False))
    ours = apply(variables, image, **named)
    mask_logits = theirs[0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours.mask_logits, mask_logits, atol=1e-5)
    np.testing.assert_allclose(ours.label_logits, theirs[1].numpy(), atol=1e-5)
