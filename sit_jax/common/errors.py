"""The exceptions that users see as one line, and the exit codes of the commands."""


class InputError(ValueError):
    """Something that the user gave is wrong; the message names it and the remedy, and the exit code is 2."""


class NonFiniteError(FloatingPointError):
    """A loss or gradient is no longer finite; its message names the step and the metric."""


class SaveError(OSError):
    """The end of a run could not be saved; the message names the newest checkpoint, and the exit code is 1."""


DONE, FAILED, WRONG_INPUT, PREEMPTED = 0, 1, 2, 75
