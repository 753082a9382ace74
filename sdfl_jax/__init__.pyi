from . import metrics, models, weights
from .predict.answer import Answer, Unanswered
from .predict.predictor import Predictor, load

__version__: str

__all__ = ["Answer", "Predictor", "Unanswered", "load", "metrics", "models", "weights"]
