"""What keeps an evaluation from going on, in words for the one who started it."""


class EvaluationError(Exception):
    """A file, a setting or a checker that cannot be used; the text says which, and what to do."""
