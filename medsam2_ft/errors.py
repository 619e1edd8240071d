"""The one exception type for mistakes that a user can repair."""


class UserError(ValueError):
    """Bad input: the message names the file (or option), the problem and the remedy, in one line.

    Entry points print the message without a traceback and exit with code 2. Everything else that
    is raised is a defect of the program and keeps its traceback.
    """
