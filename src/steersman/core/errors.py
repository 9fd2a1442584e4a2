"""The errors a user may see, each one message without a traceback.

Anything else that is raised is a bug of ours and keeps its traceback. Leaves out: how errors are printed (`cli`).
"""

MOST_SAID = 200
"""Characters that foreign text may take in a message of ours."""


def one_line(text: str, most: int = MOST_SAID) -> str:
    """Foreign text as a part of one line: what cannot be printed is escaped, and what is beyond `most` is cut off.

    Edge cases: a line break becomes the two characters backslash and n, so no text can look like a message of ours.
    """
    text = text.strip()
    cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return cut if len(cut) <= most else f"{cut[: most - 1]}…"


class UserError(ValueError):
    """A mistake the user can cure: bad input, an impossible option, a missing file (exit code 2).

    Args:
        what: what is wrong, in one sentence that names the value found.
        where: the place (dotted path, ``file:line``, row); put in front of the message.
        allowed: what would be accepted.
        cure: what to type or change.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", allowed: str = "", cure: str = "") -> None:
        self.what, self.where, self.allowed, self.cure = what, where, allowed, cure
        head = f"{where}: {what}" if where else what
        super().__init__("\n".join([head, *(f"       {x}" for x in (allowed and f"allowed: {allowed}", cure) if x)]))


class RunStopped(RuntimeError):
    """A run that had to stop although its input was accepted: diverged, disk full, worker lost (exit code 1).

    What was finished before stays valid; the message says what to do next.
    """

    exit_code = 1


class CorruptFile(UserError):
    """A stored file that does not match its manifest; it is refused by name, never half-read."""
