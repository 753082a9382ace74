from . import metrics, models, weights
from .predict.predictor import Answer, Predictor, Unanswered, load

__version__: str

__all__ = ["Answer", "Predictor", "Unanswered", "load", "metrics", "models", "weights"]
