"""The small data sets and commands of the other tests, a run to go on from, and what breaks them."""

from pathlib import Path

import pytest

from neo_model.config.command_line import main
from tests.config.conftest import command, make_coco, one_thread, shapes_root, tiny  # noqa: F401
from tests.config.test_command_errors import refused  # noqa: F401
from tests.config.test_sweep import short  # noqa: F401
from tests.data.conftest import make_data, picture, root  # noqa: F401
from tests.engine.conftest import make_hardware  # noqa: F401
from tests.engine.test_runner import make_runner, scripted_ap  # noqa: F401


@pytest.fixture(scope="package")
def run_of_a_step(tmp_path_factory, tiny) -> Path:  # noqa: F811
    """A finished run of one step, not to be changed."""
    run_dir = tmp_path_factory.mktemp("one_step") / "run"
    assert main("train", [*tiny, "limit_batches=1", f"hydra.run.dir={run_dir}"]) == 0
    return run_dir
