r"""Any network by one word, trained as the reference trains its own.

python -m sdfl_jax.main --config=configs/network.py:name=mvssnet --workdir=runs/mvssnet
python -m sdfl_jax.main --config=configs/network.py:name=upernet,encoder=convnext_tiny \
    --workdir=runs/convnext

`name` is one of `sdfl_jax.models.MODELS`, `encoder` one of `ENCODERS` for the networks
that take one. Settings that are not the reference's: image size and loss weights of
networks that have their own, see `sdfl_jax.config.of_network`. Reproduces nothing.
"""

from sdfl_jax.config import of_network, parse_arg


def get_config(arg: str = ""):
    fields = parse_arg(arg, name="sdfl", encoder="", epochs=200, batch_size=8)
    settings = {"encoder": fields["encoder"]} if fields["encoder"] else {}
    config = of_network(fields["name"], **settings)
    config.total_epochs = fields["epochs"]
    config.batch_size = fields["batch_size"]
    config.best_metric = "loss"
    return config
