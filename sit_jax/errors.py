"""The one exception that means "the user's input is wrong": commands print its line and exit with code 2."""


class InputError(ValueError):
    """Wrong input from the user; its message is one line that names the thing and the remedy."""
