"""Claims name entries and quantities that there are."""

import pytest

from jaxmec.studies.catalogue import find_study
from jaxmec.studies.claims import CLAIMS, Claim


def test_every_claim_is_of_entries_that_the_full_studies_have():
    for claim in CLAIMS:
        labels = [entry.label for entry in find_study(claim.study).entries]
        assert claim.ours in labels and claim.theirs in labels, claim
    with pytest.raises(ValueError, match="did you mean 'makespan'"):
        Claim("c", "s", "cartpole", "a", "b", "makspan", "less")
