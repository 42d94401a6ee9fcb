"""Other people's CSV and JSON, and the scales of their scores."""
