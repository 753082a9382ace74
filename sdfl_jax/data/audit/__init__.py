"""Whether the lists of a study can be trusted."""
