"""What a terminal obeys: of strangers' words nothing reaches it as it is, of ours ends of lines and tabs do."""

import json
import logging

import pytest
import torch

import neo_model
from neo_model.config.command_line import main
from neo_model.config.run_log import LogFile, run_log
from neo_model.config.secrets import RedactingFilter
from neo_model.reports.sweep import main as report_sweep
from neo_model.utils.download import download
from neo_model.utils.messages import tell

ODD = "\x1b[2J\x1b]0;x\x07\r\x9b31m\x7f"
WRITTEN = r"\x1b[2J\x1b]0;x\x07\r\x9b31m\x7f"


@pytest.fixture
def logged(tmp_path, capfd):
    """Logs by what it is given, and returns what a terminal and a run's train.log have got."""

    def run(say) -> tuple[str, str]:
        with run_log() as file_log:
            file_log.setTarget(LogFile(tmp_path / "train.log"))
            say(logging.getLogger("neo_model.tests"))
        return capfd.readouterr().err, (tmp_path / "train.log").read_text()

    return run


def test_messages(logged):
    for said in logged(lambda log: log.warning("of %s,\n\tand more", ODD)):
        assert said.endswith(f"of {WRITTEN},\n\tand more\n") and ODD not in said


def test_a_traceback(logged):
    def fail(log: logging.Logger) -> None:
        try:
            raise ValueError(ODD)
        except ValueError:
            log.exception("it failed")

    for said in logged(fail):
        assert "it failed\nTraceback (most recent call last):\n" in said
        assert said.endswith(f"ValueError: {WRITTEN}\n") and ODD not in said


def test_the_names_of_tensors(logged, tmp_path):
    model = neo_model.build_model("tiny", num_classes=3)
    torch.save({**model.state_dict(), f"{ODD}.anchors": torch.zeros(1)}, tmp_path / "weights.pth")
    for said in logged(lambda log: neo_model.load_weights(model, tmp_path / "weights.pth")):
        assert f"{WRITTEN}.anchors" in said and ODD not in said


@pytest.mark.parametrize("sampling", [ODD, [ODD], 3])
def test_a_way_of_sampling_that_there_is_not(caplog, tmp_path, sampling):
    model = neo_model.build_model("rtdetrv2_r18", num_classes=3)
    config = {"model": {"sampling": sampling}}
    torch.save({"model": model.state_dict(), "config": config}, tmp_path / "weights.pt")
    neo_model.load_weights(model, tmp_path / "weights.pt")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_what_needs_no_change_stays_a_template():
    record = logging.makeLogRecord({"msg": "%s\n\t%s", "args": ("caf\u00e9", 2)})
    assert RedactingFilter().filter(record) and record.args == ("caf\u00e9", 2)


def test_what_is_told_beside_the_log(capfd):
    tell(f"warning: {ODD}\n\tmore of gpj\u202e.exe\u2028")
    assert capfd.readouterr().err == f"warning: {WRITTEN}\n\tmore of gpj\\u202e.exe\\u2028\n"


def test_the_words_of_a_server(capfd, tmp_path, server):
    server.files, server.failures, server.reason = {"/file": b"whole"}, [503], f"busy {ODD}!"
    download(f"{server.url}/file", tmp_path / "file", checksums={}, max_bytes=10, tries=2, first_wait=0.001)
    said = "".join(capfd.readouterr())
    assert f"the server answers 503 busy {WRITTEN}! at byte 0; trying again" in said and ODD not in said


def test_the_results_of_a_strangers_sweep(capfd, tmp_path):
    (tmp_path / "job").mkdir()
    result = {"job": 0, "overrides": [f"weights={ODD}"], "command": ODD, "status": "failed", "error": ODD, "AP": None}
    (tmp_path / "job" / "result.json").write_text(json.dumps(result))
    assert report_sweep([str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert r"failed: \x1b[2J\x1b]0;x\x07" in said and "\x1b" not in said


def test_the_warnings_of_a_command_without_a_log(capfd, monkeypatch):
    monkeypatch.setattr(logging.lastResort, "filters", [])
    assert main("eval", ["--help"]) == 0
    logging.lastResort.handle(logging.makeLogRecord({"msg": f"a {ODD}", "levelno": logging.WARNING}))
    assert capfd.readouterr().err == f"a {WRITTEN}\n"
