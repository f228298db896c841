"""What is wrong with a user's file."""


class FleetError(Exception):
    """Something is wrong with a fleet's file; the message says what, where, what was expected."""
