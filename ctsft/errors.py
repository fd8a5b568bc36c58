"""The two ways in which a run can end early: the user can mend it, or one cell went wrong."""


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


class CellFailed(Exception):
    """One cell of a study cannot give a number (a non-finite loss or score); the other cells go on."""
