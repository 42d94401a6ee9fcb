"""The one exception that bad input ends in."""


class MintIQAError(Exception):
    """Something a user can put right: a missing file, a damaged image, an unknown option.

    `message` is one sentence saying what is wrong, where, and what to do about it; it is shown as it is,
    without a traceback. `code` is a short snake_case name of the kind of trouble (`image_missing`,
    `image_too_large`, `weights_missing`, ...) that programs can rely on: messages may be reworded, codes may
    not.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both, or the error would not survive pickling between processes
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message
