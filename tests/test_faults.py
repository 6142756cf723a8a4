from pathlib import Path

import pytest

from tests.faults.planted import FAULTS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.area}: {fault.name}")
def test_a_fault_has_its_one_place_and_its_tests(fault):
    assert (ROOT / fault.path).read_text("utf-8").count(fault.old) == 1
    for test in fault.tests.split():
        assert (ROOT / test.split("::")[0]).is_file()
