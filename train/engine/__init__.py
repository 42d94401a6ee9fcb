"""Starts, stops and resumes runs, and shares them over processes."""
