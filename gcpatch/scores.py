"""`gcpatch.explainers.scores` under its short name."""

from gcpatch.explainers.scores import Score as Score
from gcpatch.explainers.scores import log_softmax as log_softmax
from gcpatch.explainers.scores import logit as logit
from gcpatch.explainers.scores import margin as margin
