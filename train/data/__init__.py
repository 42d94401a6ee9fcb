"""What training learns from, and in which order."""
