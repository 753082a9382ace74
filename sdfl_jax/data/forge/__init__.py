"""Forgeries with exact masks, made from photographs."""
