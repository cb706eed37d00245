"""Errors of more than one room."""


class SetupError(ValueError):
    """A part given to a model (a checkpoint, a teacher) does not fit it; raised before training starts."""


class CheckpointError(SetupError):
    """A checkpoint that cannot be read, or does not fit the model it was given to."""


class BrokenImagesError(RuntimeError):
    """Too many images of a training cannot be read."""
