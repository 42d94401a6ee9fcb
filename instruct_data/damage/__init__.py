"""Faults put into pictures: distortions, artifacts and garbled text, with their strength and place."""
