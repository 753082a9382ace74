"""What the studies of whole generated faces share: labels alone, no masks."""

from sdfl_jax.config import defaults, parse_arg


def get_config(data: str, image_size: int, epochs: int, lr: float, arg: str = ""):
    """Adam at a constant rate on `shards/DATA`, in batches of 32."""
    parse_arg(arg)
    config = defaults()
    config.total_epochs = epochs
    config.batch_size = 32
    config.image_size = image_size
    config.data.train = f"shards/{data}/train"
    config.data.val = f"shards/{data}/val"
    config.loss_weights = dict(mask=0.0, label=1.0, edge=0.0)
    config.optimizer = dict(name="adam", lr=lr, weight_decay=0.0, clip=0.0)
    config.schedule = dict(name="constant")
    config.best_metric = "image_auc"
    return config
