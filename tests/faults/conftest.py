"""The small data set of the data tests, and what breaks it."""

from tests.data.conftest import make_data, root  # noqa: F401
