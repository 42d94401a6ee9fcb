"""Weights found, checked and read; nothing here knows a model."""
