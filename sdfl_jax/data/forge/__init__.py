"""Forgeries with exact masks out of photographs."""
