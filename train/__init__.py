"""Training: pre-training on captions, stage 1 (scores), stage 2 (explanations)."""

import logging
import os

# Without it MKL rounds by where in memory a matrix lies, and a run that was resumed would end with other
# weights than one that was not. Read at the first product of matrices; costs nothing that could be measured.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# It warns, where transformers' Trainer or peft look for it, about an optional kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
