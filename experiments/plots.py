"""What the charts of the experiments take of matplotlib, drawn without a screen."""

try:
    import matplotlib
except ImportError:
    raise SystemExit("charts need matplotlib: install gcpatch[experiments]") from None

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

__all__ = [
    "ListedColormap",
    "Normalize",
    "PercentFormatter",
    "Rectangle",
    "ScalarMappable",
    "plt",
]
