"""Figures for people: logs, tables, curves and pictures."""

from sdfl_jax.report.log import Log
from sdfl_jax.report.pictures import overlay, picture_sheet, roc_plot
from sdfl_jax.report.tables import score_table, table

__all__ = ["Log", "overlay", "picture_sheet", "roc_plot", "score_table", "table"]
