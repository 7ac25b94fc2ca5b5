"""Where a run stands, and the two ways to stop it."""

import signal

import pytest

from neo_model.engine.progress import Interrupted, Progress, StopRequest


def test_progress_travels_as_plain_values():
    progress = Progress(step=7, epoch=2, batch=3, unevaluated=True, best_ap=0.25, evaluations_without_gain=1)
    assert Progress(**progress.state_dict()) == progress
    assert all(isinstance(value, int | float) for value in progress.state_dict().values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted_and_the_second_ends_at_once(monkeypatch, number, code):
    with StopRequest() as stop:
        assert stop.signal_number is None
        signal.raise_signal(number)
        assert stop.signal_number == number
        signal.raise_signal(number)  # the same one, sent to the process and to its group
        monkeypatch.setattr("neo_model.engine.progress.ECHO_SECONDS", 0.0)
        with pytest.raises(Interrupted, match=signal.Signals(number).name) as error:
            signal.raise_signal(number)
    assert error.value.exit_code == code


def test_a_wish_to_save_is_no_wish_to_stop():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.save_asked and stop.signal_number is None


def test_afterwards_ctrl_c_is_what_it_was():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
