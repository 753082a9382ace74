"""Pages, charts' styles and overlays that several reports share."""
