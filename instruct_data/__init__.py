"""From human scores to instruction tuning: label files of others, faults made on purpose, prompts made wrong,
questions and answers that follow from what is known. docs/architecture.md has a line for each file."""
