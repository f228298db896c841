"""Every family of methods, the rules, the planner and the allocation rules, in each of JAX's modes.

Who hunts a NaN with JAX_DEBUG_NANS, checks numbers with JAX_ENABLE_X64 or steps through with
JAX_DISABLE_JIT must find his own, not ours.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from every_mode import PARTS

MODES = {
    "as usual": {},
    "debug_nans": {"JAX_DEBUG_NANS": "1"},
    # Compiled as users have it: polished as little as in the tests, LLVM fails at some divisions.
    "enable_x64": {"JAX_ENABLE_X64": "1", "XLA_FLAGS": ""},
    "disable_jit": {"JAX_DISABLE_JIT": "1"},
}
# Each family as usual, and of the other modes what is quickest to compile; the rest is slow.
FEW = {
    "as usual": "dqn per-station top-k dsac pathwise cloning rules plan allocation".split(),
    "debug_nans": ["dqn-multi", "pathwise", "allocation"],
    "enable_x64": ["dqn-multi", "allocation"],
    "disable_jit": ["allocation"],
}


def run(mode, parts):
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("every_mode.py"), *parts]
    done = subprocess.run(command, env=os.environ | MODES[mode], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.quick
@pytest.mark.parametrize("mode", MODES)
def test_a_little_of_everything(mode):
    """Of `make quick`, which `.ci/run` has too: half a minute for most modes."""
    run(mode, FEW[mode])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "as usual"])
def test_all_of_it(mode, part):
    run(mode, [part])
