"""Figures for people: logs, tables, curves, pictures and the page that shows them."""

from sdfl_jax.report.curves import roc_plot
from sdfl_jax.report.document import write_report
from sdfl_jax.report.gallery import Gallery
from sdfl_jax.report.log import Log
from sdfl_jax.report.pictures import overlay, picture_sheet
from sdfl_jax.report.tables import score_table, table

__all__ = [
    "Gallery",
    "Log",
    "overlay",
    "picture_sheet",
    "roc_plot",
    "score_table",
    "table",
    "write_report",
]
