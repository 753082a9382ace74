"""Charts of a data set."""
