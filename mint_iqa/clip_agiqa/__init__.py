"""CLIP-AGIQA (arXiv 2406.16641): a frozen CLIP with learned prompts, for blind scores."""
