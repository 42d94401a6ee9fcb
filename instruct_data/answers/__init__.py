"""Questions and answers in words that follow from scores and faults."""
