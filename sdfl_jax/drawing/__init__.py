"""Pages, chart styles and overlays shared by several reports."""
