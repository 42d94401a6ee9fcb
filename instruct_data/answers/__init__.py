"""Questions, and answers whose words follow from scores and faults."""
