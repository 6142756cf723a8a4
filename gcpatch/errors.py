"""The base of all errors that a user can mend."""


class UserError(ValueError):
    """A mistake in what was asked for: one sentence that says what is wrong and what to do."""
