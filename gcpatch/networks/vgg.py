"""VGG (Simonyan and Zisserman, 2015), with and without batch normalisation."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from gcpatch.networks import layers
from gcpatch.networks.network import Network, Preprocessing, Stage

POOL = "M"
HIDDEN = (4096, 4096)


class VGG(Network):
    """Stages `features.*` (convolutions), `avgpool` and `classifier.*` (three linear layers).

    Args:
        plan: the width of each 3x3 convolution in turn, `POOL` for a 2x2 max pooling.
        normalized: whether batch normalisation follows each convolution.
        hidden: the widths of the classifier's two hidden layers.
    """

    def __init__(
        self,
        name: str,
        categories: tuple[str, ...],
        *,
        plan: Sequence[int | str],
        normalized: bool,
        hidden: tuple[int, int] = HIDDEN,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
        rngs: nnx.Rngs,
    ):
        features: list[nnx.Module] = []
        channels = 3
        for item in plan:
            if isinstance(item, str):
                features.append(layers.MaxPool(2, 2))
                continue
            features.append(layers.conv2d(channels, item, 3, padding=1, rngs=rngs))
            if normalized:
                features.append(layers.batch_norm(item, rngs=rngs))
            features.append(layers.ReLU())
            channels = item
        # Grad-CAM looks at the last ReLU; the last feature layer pools it.
        super().__init__(name, f"features.{len(features) - 2}", categories, preprocessing)
        self.hidden = hidden
        self.features = layers.stack(features)
        self.avgpool = layers.AdaptiveAveragePool(7)
        self.classifier = layers.stack(
            [
                layers.linear_of_map(7, channels, hidden[0], rngs=rngs),
                layers.ReLU(),
                layers.Dropout(),
                nnx.Linear(*hidden, rngs=rngs),
                layers.ReLU(),
                layers.Dropout(),
                nnx.Linear(hidden[1], len(categories), rngs=rngs),
            ]
        )

    @property
    def options(self) -> dict[str, Any]:
        return {"hidden": list(self.hidden)}

    def stages(self) -> Mapping[str, Stage]:
        return {
            **{f"features.{i}": layer for i, layer in enumerate(self.features)},
            "avgpool": self.avgpool,
            **{f"classifier.{i}": layer for i, layer in enumerate(self.classifier)},
        }
