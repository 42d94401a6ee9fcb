"""Training: pre-training on captions, stage 1 (scores), stage 2 (explanations)."""

import os

from mint_iqa.quiet import silence_bitsandbytes

# Without it MKL's rounding depends on where in memory a matrix lies, so a resumed run would end with other
# weights than an uninterrupted one. Read at the first matrix product; costs no measurable time.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
silence_bitsandbytes()  # transformers' Trainer and peft look for it
