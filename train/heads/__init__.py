"""Parts fitted to a tower's outputs, and their losses."""
