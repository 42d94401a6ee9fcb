"""Label files of other people's making -> records.

aigciqa2023.py  AIGCIQA2023+: questions and answers with three scores; the raw annotation
agiqa3k.py      AGIQA-3K: quality and alignment scores
distortions.py  LIVE, CLIVE and KADID-10k: one score a picture, no prompt
llava.py        LLaVA conversations
table.py        any CSV file whose columns and score ranges are named
command.py      the command `import`

Every reader takes a path and a `Findings`, to which it adds each line that can't be used, and returns the
records of the others. It raises MintIQAError (`file_missing`, `unreadable_file`) where the file as a whole is
of no use. Call `Findings.check` before relying on the records.
"""
