"""Evaluators: classes whose `run(state)` scores one split."""

from sdfl_jax.evaluators.localization import Evaluation, LocalizationEvaluator

EVALUATORS = {"localization": LocalizationEvaluator}

__all__ = ["EVALUATORS", "Evaluation", "LocalizationEvaluator"]
