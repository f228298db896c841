"""Parts of robots like those of RoboHash, which is 43 MB and need not be there."""

import numpy as np
import pytest
from PIL import Image

from jaxmec_testbed import robots


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory):
    """Ten colours of ten parts of five kinds, each a random picture of 64 x 64."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for colour in range(robots.CHOICES):
        for place, kind in enumerate(robots.KINDS):
            within = folder / f"colour{colour}" / f"00{place}#0{place}{kind}"
            within.mkdir(parents=True)
            for number in range(1, robots.CHOICES + 1):
                pixels = rng.integers(0, 256, (8, 8, 4), np.uint8)
                picture = Image.fromarray(pixels.repeat(8, axis=0).repeat(8, axis=1))
                picture.save(within / f"00{number % 3}#{kind}-{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def some_robots(parts_folder):
    return robots.load(parts_folder)
