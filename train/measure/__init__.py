"""Measures a run: against people, faults, wrong prompts, and data that was left out."""
