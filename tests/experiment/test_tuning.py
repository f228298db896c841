"""Numbers of a rule, found over the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from serving_worlds import genai5

from jaxmec.experiment.tuning import tune_rule


def test_a_rule_is_tuned_the_same_way_twice_and_gets_better():
    params = genai5(load=0.8, horizon=40.0)
    found = tune_rule(params, candidates=16, rounds=3, episodes=4, seed=1)
    again = tune_rule(params, candidates=16, rounds=3, episodes=4, seed=1)
    assert found.numbers == again.numbers and found.rule.name == "tuned"
    assert found.history.shape == (3, 16) and np.all(np.isfinite(found.history))
    # The episodes are others in each round, so that only the whole counts.
    assert found.history[-1].mean() > found.history[0].mean()


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="candidates must be a whole number of at least 8, got 2"):
        tune_rule(genai5(), candidates=2)
