"""Exceptions that users see as one line, and the exit codes of the commands."""


class InputError(ValueError):
    """Wrong input by the user. The message names the input and the remedy; the exit code is 2."""


class NonFiniteError(FloatingPointError):
    """A loss or gradient is not finite. The message names the step and the metric; the exit code is 1."""


class SaveError(OSError):
    """The end of a run could not be saved. The message names the newest checkpoint; the exit code is 1."""


class StoreError(OSError):
    """A remote store does not answer any more. The message names the file; the exit code is 1."""


class ShortageError(MemoryError):
    """Memory ran out in a run. The message names the checkpoint and what to try; the exit code is 1."""


DONE, FAILED, WRONG_INPUT, PREEMPTED = 0, 1, 2, 75
