"""What the studies of whole generated faces share: labels alone, no masks.

`--config=FILE:small` is the form for minutes on a CPU: 128x128, some hundred steps.
"""

from sdfl_jax.config import defaults, parse_arg


def get_config(data: str, image_size: int, epochs: int, lr: float, arg: str = ""):
    """Adam at a constant rate on `shards/DATA`, in batches of 32."""
    small = parse_arg(arg, small=False)["small"]
    config = defaults()
    config.total_epochs = 0 if small else epochs
    config.total_steps = 200 if small else 0
    config.batch_size = 16 if small else 32
    config.image_size = 128 if small else image_size
    config.data.train = f"shards/{data}/train"
    config.data.val = f"shards/{data}/val"
    config.loss_weights = dict(mask=0.0, label=1.0, edge=0.0)
    config.optimizer = dict(name="adam", lr=lr, weight_decay=0.0, clip=0.0)
    config.schedule = dict(name="constant")
    config.best_metric = "image_auc"
    return config
