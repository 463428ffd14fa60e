"""The one exception that means "the user can put this right"."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that names the value and what is allowed.

    The command line prints it as `error: ...` and exits with status 2, without a traceback.
    """
