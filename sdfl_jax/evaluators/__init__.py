"""Scoring a split: the evaluator, what it leaves behind, and comparing two of these."""

from sdfl_jax.evaluators.comparison import compare, of_runs
from sdfl_jax.evaluators.evaluation import AREAS, Evaluation
from sdfl_jax.evaluators.evaluator import Evaluator

__all__ = ["AREAS", "Evaluation", "Evaluator", "compare", "of_runs"]
