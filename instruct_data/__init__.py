"""From human scores to instruction tuning: faults made on purpose, prompts made wrong, questions and answers.

faults.py     apply one known fault to a picture: what, how strong, where
prompts.py    prompts that are wrong on purpose: another subject, or one word exchanged
templates.py  questions and answers whose every claim follows from scores and known faults
records.py    rated pictures and instruction samples, as JSON Lines
reading.py    other people's CSV and JSON, with every unusable line named
importers/    label files of published sets -> records
splits.py     train, validation and test that share no prompt, reference or picture
"""
