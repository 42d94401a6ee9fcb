"""Training: pre-training on captions, stage 1 (scores), stage 2 (explanations)."""

import os

from mint_iqa.quiet import silence_bitsandbytes

# Without it MKL rounds by where in memory a matrix lies, and a run that was resumed would end with other
# weights than one that was not. Read at the first product of matrices; costs nothing that could be measured.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
silence_bitsandbytes()  # transformers' Trainer and peft look for it
