"""How every `python -m train.…` without a recipe ends: well, or in one sentence and exit code 2."""

import sys
from collections.abc import Callable
from functools import wraps

from mint_iqa.errors import MintIQAError


def ends_in_a_sentence(main: Callable[[], None]) -> Callable[[], int]:
    """`main` as a command: its exit code, 2 where a MintIQAError's sentence went to stderr."""

    @wraps(main)
    def command() -> int:
        try:
            main()
        except MintIQAError as error:
            print(f"error: {error.message}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130
        return 0

    return command
