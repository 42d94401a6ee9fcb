"""`python -m mint_iqa.cli`, for where the command is not on the path."""

import sys

from mint_iqa.cli import main

if __name__ == "__main__":
    sys.exit(main())
