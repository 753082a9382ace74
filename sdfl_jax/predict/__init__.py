"""Asks a trained network about images and videos: the command, the page, files."""
