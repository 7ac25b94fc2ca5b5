"""The one kind of error that a user causes and can mend."""


class UserError(Exception):
    """Something the user can put right; the command line prints it as one line and exits with code 2.

    Args:
        where: the file, config key or id at fault.
        cause: what is wrong with it.
        remedy: what to do about it.
    """

    def __init__(self, where: str, cause: str, remedy: str) -> None:
        super().__init__(where, cause, remedy)
        self.where, self.cause, self.remedy = str(where), cause, remedy

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.cause}; {self.remedy}".split())


class UnreadableFile(UserError):
    """A file that the system or the memory keeps from being read: what it holds may well be whole."""
