"""The tests themselves: alike however they are started."""

import signal
import subprocess
import sys

import pytest

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_tests_start_can_be_stopped(number):
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(number)
    assert child.wait(timeout=30) == -number
    assert signal.getsignal(number) != signal.SIG_IGN


def test_it_does_not_matter_whether_signals_are_ignored_at_the_start():
    """As they are under nohup, cron and many agents of continuous integration."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", *tests, "-k", "can_be_stopped"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(SIGNALS)} passed" in done.stdout
