"""Scores beside human ones: `mint-iqa evaluate`, and the same statistics for trainings.

labels.py     human scores, from a CSV file or ratings
pairs.py      which record of `mint-iqa score` belongs to which label
logistic.py   the curve between scores and labels
agreement.py  how well one dimension's scores agree with people, and baselines that see no pixel
rounds.py     repeated splits by prompt, and choosing on validation
table.py      figures for the terminal
plots.py      scatter and calibration as SVG
report.py     evaluation.json and the page
"""
