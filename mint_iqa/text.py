"""Counts in words, and strangers' texts on one line."""


def counted(number: int, what: str) -> str:
    """1 line, 2,000 lines."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def plain(text: str) -> str:
    """`text` on one line and without control characters, which could steer the terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
