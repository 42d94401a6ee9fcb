"""From human scores to instruction data: imported label files, deliberate faults, wrong prompts, and
questions with answers that follow from what is known. docs/architecture.md has a line for each file."""
