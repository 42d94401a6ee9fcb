"""How every command of train/ ends: well, or in one sentence and exit code 2."""

import sys
from collections.abc import Callable
from functools import wraps

from mint_iqa.errors import MintIQAError


def exit_code(main: Callable[[], None], stopped: str = "Stopped.") -> int:
    """Run a command. 2: a MintIQAError's sentence went to stderr; 130: Ctrl-C, with `stopped` there."""
    try:
        main()
    except MintIQAError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    return 0


def ends_in_a_sentence(main: Callable[[], None]) -> Callable[[], int]:
    """`main` as a function that gives its `exit_code`."""

    @wraps(main)
    def command() -> int:
        return exit_code(main)

    return command
