"""The one kind of error that a user causes and can mend."""

import re

# A terminal obeys these: they could hide an error that quotes a stranger's file, or write elsewhere. And halves of a
# UTF-16 pair, which JSON may hold and no file or terminal takes.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# And what turns the direction of a line, or ends it.
NOT_SHOWN = re.compile(rf"{CONTROL_CHARACTERS.pattern}|[\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text whose control characters are written out, as in "\\x1b", but for ends of lines and tabs."""
    return NOT_SHOWN.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


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
        return visible(" ".join(f"{self.where}: {self.cause}; {self.remedy}".split()))


class UnreadableFile(UserError):
    """A file that the system or the memory keeps from being read: what it holds may well be whole."""
