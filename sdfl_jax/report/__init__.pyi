from .curves import roc_plot
from .document import write_report
from .gallery import Gallery
from .pictures import overlay, picture_sheet
from .tables import score_table, table
from .training_log import Log

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
