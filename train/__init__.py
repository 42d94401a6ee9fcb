"""Training: pre-training on captions, stage 1 (scores), stage 2 (explanations)."""
