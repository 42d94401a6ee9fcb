"""From human scores to instruction tuning: faults made on purpose, prompts made wrong, questions and answers.

faults.py     apply one known fault to a picture: what, how strong, where
prompts.py    prompts that are wrong on purpose: another subject, or one word exchanged
segmentation.py  a prompt taken apart: content, style, atmosphere
grammar.py    the answers of AIGCIQA2023+ taken apart and put together, and cuts on scores that predict them
templates.py  questions and answers whose every claim follows from scores and known faults
wordings.py   their wordings
"""
