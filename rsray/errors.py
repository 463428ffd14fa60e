"""What people read: the exceptions that they can put right, and names that anybody gave."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that names the value and what is allowed.

    The command line prints it as `error: ...` and exits with status 2, without a traceback.
    """


class LostProcessError(RuntimeError):
    """A process that a run cannot do without has died; what was done is saved."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Ray's process {name!r} has died: what was done is saved; run the same command again"
        )


def printable(text: str, *, keep: str = "") -> str:
    """Return the text with what is no visible character, and not in `keep`, written out.

    Names of folders, classes and results may come from anybody: an escape sequence in one must not
    reach a terminal, nor a mark that turns the direction of writing a page.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
