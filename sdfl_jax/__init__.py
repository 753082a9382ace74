"""Finds manipulated pixels in images: networks, training, evaluation, prediction."""

import importlib  # of what starts JAX only where it is asked for

__all__ = ["load"]
__version__ = "0.1.0"


def load(network: str = "starter", checkpoint_name: str = "best"):
    """A `predict.predictor.Predictor` of a run's folder or a shipped network's name.

    Raises InputError where there is no such network.
    """
    predictor = importlib.import_module("sdfl_jax.predict.predictor")
    return predictor.Predictor(network, checkpoint_name)
