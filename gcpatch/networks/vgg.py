"""VGG (Simonyan and Zisserman, 2015), with and without batch normalisation."""

from collections.abc import Mapping, Sequence

from flax import nnx

from gcpatch.networks import layers
from gcpatch.networks.network import Network, Stage

POOL = "M"


class VGG(Network):
    """Stages `features.*` (convolutions), `avgpool` and `classifier.*` (three linear layers).

    Args:
        plan: the width of each 3x3 convolution in turn, `POOL` for a 2x2 max pooling.
        normalized: whether batch normalisation follows each convolution.
        hidden: the width of the classifier's two hidden layers.
    """

    def __init__(
        self,
        name: str,
        categories: tuple[str, ...],
        *,
        plan: Sequence[int | str],
        normalized: bool,
        hidden: int = 4096,
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
        super().__init__(name, f"features.{len(features) - 2}", categories)
        self.features = layers.stack(features)
        self.avgpool = layers.AdaptiveAveragePool(7)
        self.classifier = layers.stack(
            [
                layers.linear_of_map(7, channels, hidden, rngs=rngs),
                layers.ReLU(),
                layers.Dropout(),
                nnx.Linear(hidden, hidden, rngs=rngs),
                layers.ReLU(),
                layers.Dropout(),
                nnx.Linear(hidden, len(categories), rngs=rngs),
            ]
        )

    def stages(self) -> Mapping[str, Stage]:
        return {
            **{f"features.{i}": layer for i, layer in enumerate(self.features)},
            "avgpool": self.avgpool,
            **{f"classifier.{i}": layer for i, layer in enumerate(self.classifier)},
        }
