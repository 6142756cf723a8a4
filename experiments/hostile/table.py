"""All rows of the table."""

from experiments.hostile.archives import ARCHIVES
from experiments.hostile.checkpoints import CHECKPOINTS
from experiments.hostile.lists import LISTS
from experiments.hostile.options import OPTIONS, SURROUNDINGS
from experiments.hostile.pictures import PICTURES
from experiments.hostile.runs import RUNS

ROWS = (*ARCHIVES, *PICTURES, *CHECKPOINTS, *RUNS, *LISTS, *OPTIONS, *SURROUNDINGS)
