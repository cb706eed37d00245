"""Errors of more than one room."""


class SetupError(ValueError):
    """A part given to a model (a checkpoint, a teacher) does not fit it; raised before training starts."""


class CheckpointError(SetupError):
    """A checkpoint that cannot be read, or does not fit the model it was given to."""


class BrokenImagesError(RuntimeError):
    """Too many images of a training cannot be read."""


class NotSavedError(RuntimeError):
    """A checkpoint cannot be written, or does not hold what was written."""


class BadLossError(RuntimeError):
    """The loss of a training is not a number, or infinite."""
