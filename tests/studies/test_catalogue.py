"""Every named study can be made, and studies share the cells that they have in common."""

import pytest

from jaxmec.studies.catalogue import SIZES, STUDIES, find_study


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_names_what_there_is(name, size):
    study = find_study(name, size)
    assert study.name == name
    assert study.cells
    assert len({cell.folder for cell in study.cells}) == len(study.cells)


def test_studies_of_amcoedge_share_their_common_setting():
    """All of it at full size; in short, whose sweeps train for less, what does not learn."""
    for size, shared in (("full", 5), ("short", 3)):
        base = {cell.folder for cell in find_study("amcoedge-methods", size).cells}
        for name in ("deadline", "probability", "tasks", "capacities"):
            sweep = {cell.folder for cell in find_study(f"amcoedge-{name}", size).cells}
            assert len(base & sweep) >= shared, (name, size)


def test_a_wrong_name_suggests_the_right_one():
    with pytest.raises(ValueError, match="did you mean 'amcoedge-deadline'"):
        find_study("amcoedge-deadlin")
    with pytest.raises(
        ValueError, match="size 'shrt' is not one of full, short; did you mean 'short'"
    ):
        find_study("cartpole", "shrt")
