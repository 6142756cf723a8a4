"""Bottleneck ResNets: ResNet, Wide ResNet and ResNeXt, as torchvision builds them.

He et al., 2016; Zagoruyko and Komodakis, 2016 (wide); Xie et al., 2017 (grouped). The stride sits
on the 3x3 convolution of a block, not on the first 1x1.
"""

from collections.abc import Mapping, Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float

from gcpatch.networks import layers
from gcpatch.networks.network import Network, Preprocessing, Stage

EXPANSION = 4


class Bottleneck(nnx.Module):
    """1x1, (grouped) 3x3 and 1x1 convolutions beside a shortcut, added and rectified."""

    def __init__(
        self, channels: int, planes: int, width: int, stride: int, groups: int, *, rngs: nnx.Rngs
    ):
        outputs = planes * EXPANSION
        self.conv1 = layers.conv2d(channels, width, 1, bias=False, rngs=rngs)
        self.bn1 = layers.batch_norm(width, rngs=rngs)
        self.conv2 = layers.conv2d(
            width, width, 3, stride=stride, padding=1, groups=groups, bias=False, rngs=rngs
        )
        self.bn2 = layers.batch_norm(width, rngs=rngs)
        self.conv3 = layers.conv2d(width, outputs, 1, bias=False, rngs=rngs)
        self.bn3 = layers.batch_norm(outputs, rngs=rngs)
        shortcut: list[nnx.Module] = []
        if stride != 1 or channels != outputs:
            shortcut = [
                layers.conv2d(channels, outputs, 1, stride=stride, bias=False, rngs=rngs),
                layers.batch_norm(outputs, rngs=rngs),
            ]
        self.downsample = layers.stack(shortcut)

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c2"]:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        for layer in self.downsample:
            x = layer(x)
        return jax.nn.relu(y + x)


class ResNet(Network):
    """Stages `conv1 bn1 relu maxpool`, `layer1.* .. layer4.*` (blocks), `avgpool flatten fc`.

    Args:
        blocks: the number of blocks in each of the four layers.
        groups: the groups of each 3x3 convolution (cardinality).
        width_per_group: the width of a group in `layer1` where `planes` is 64.
        planes: the width of the stem and the base width of `layer1`; doubles in each layer.
    """

    def __init__(
        self,
        name: str,
        categories: tuple[str, ...],
        *,
        blocks: Sequence[int],
        groups: int = 1,
        width_per_group: int = 64,
        planes: int = 64,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
        rngs: nnx.Rngs,
    ):
        super().__init__(name, "layer4", categories, preprocessing)
        self.conv1 = layers.conv2d(3, planes, 7, stride=2, padding=3, bias=False, rngs=rngs)
        self.bn1 = layers.batch_norm(planes, rngs=rngs)
        self.relu = layers.ReLU()
        self.maxpool = layers.MaxPool(3, 2, 1)
        channels = planes
        for i, count in enumerate(blocks):
            base = planes * 2**i
            width = base * width_per_group // 64 * groups
            layer = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                layer.append(Bottleneck(channels, base, width, stride, groups, rngs=rngs))
                channels = base * EXPANSION
            setattr(self, f"layer{i + 1}", layers.stack(layer))
        self.avgpool = layers.AdaptiveAveragePool(1)
        self.fc = nnx.Linear(channels, len(categories), rngs=rngs)

    def stages(self) -> Mapping[str, Stage]:
        blocks = {
            f"{name}.{j}": block
            for name in ("layer1", "layer2", "layer3", "layer4")
            for j, block in enumerate(getattr(self, name))
        }
        stem = {name: getattr(self, name) for name in ("conv1", "bn1", "relu", "maxpool")}
        return {**stem, **blocks, "avgpool": self.avgpool, "flatten": _flatten, "fc": self.fc}


def _flatten(x: Float[Array, "*batch 1 1 c"]) -> Float[Array, "*batch c"]:
    return x[..., 0, 0, :]
