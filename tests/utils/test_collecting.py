import gc
import subprocess
import sys

import pytest

from neo_model.utils.collecting import importing, without_collecting

IMPORT = "from neo_model.config.targets import find_class; find_class('model', 'neo_model.models.RTDETR'); "
TELL = "import gc; print(gc.isenabled(), gc.get_freeze_count() > 100_000)"


def told_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_what_pytorch_brings_stays_out_of_later_collections():
    assert told_by(IMPORT + TELL) == "True True"


def test_a_process_that_has_pytorch_keeps_its_objects_collectable():
    assert told_by("import torch; " + IMPORT + TELL) == "True False"


@pytest.mark.parametrize("context", [without_collecting, importing])
def test_collection_goes_on_afterwards_even_after_an_error(context):
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), context():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


@pytest.mark.parametrize("context", [without_collecting, importing])
def test_collection_that_was_off_stays_off(context):
    gc.disable()
    try:
        with context():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
