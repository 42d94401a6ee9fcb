"""Many pictures: lists, batches, processes, and files that survive an interruption."""
