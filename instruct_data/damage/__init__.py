"""Deliberate faults in pictures: distortions, artifacts and garbled text of known strength and place."""
