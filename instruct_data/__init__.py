"""From human scores to instruction tuning: faults made on purpose, prompts made wrong, questions and answers.

faults.py       apply one fault that the model names to a picture: what, how strong, where
distortions.py  the 25 distortions of KADID-10k with their human scores, made by details.py and tones.py
artefacts.py    structural artefacts of generated pictures, pseudo-text in garble.py
regions.py      soft-edged places in a picture
pixels.py       arrays of pixels: bytes, CIELAB, blur
sheet.py        everything at every level on one sheet: python -m instruct_data sheet IMAGE --output sheet.png
prompts.py      prompts that are wrong on purpose: another subject, or one word exchanged
templates.py    questions and answers whose every claim follows from scores and known faults
"""
