"""Label files of other projects -> records.

aigciqa2023.py  AIGCIQA2023+: questions and answers with three scores; the raw annotation
agiqa3k.py      AGIQA-3K: quality and alignment scores
distortions.py  LIVE, CLIVE and KADID-10k: one score per picture, no prompt
llava.py        LLaVA conversations
table.py        any CSV file whose columns and score ranges you name
own.py          your own ratings in a CSV file: ranges are guessed unless you name them
scores.py       checks that the readers share: contradictory scores, missing pictures
command.py      the command `import`

Every reader takes a path and a `Findings`. It adds each unusable line to the `Findings` and returns the
records of the other lines. It raises MintIQAError (`file_missing`, `unreadable_file`) if the whole file is
unusable. Call `Findings.check` before you rely on the records.
"""
