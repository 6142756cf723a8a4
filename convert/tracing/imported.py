"""torch's side of a network that was imported through its graph: its module, and where to look.

Values of stages are those that forward hooks see in the module itself. Grad-CAM and attacks need
the module in two parts, which modules in general cannot be cut into: they run torch.export's
program of it, in torch, to the layer and from there on.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert import ConvertError
from convert.operators import torch
from convert.reference import Classifier
from convert.tracing.graph import Origin, Traced, constants, trace, with_inputs
from gcpatch.networks import Network, parameters


class Imported:
    """A module with its weights beside a network of the same graph.

    Args:
        network: the one here.
        module: torch's, with the weights; it is left as it is.
        kind: float32 or float64.
        layer: that Grad-CAM explains; the network's target layer if None.

    Raises:
        ConvertError: there is no such value in torch.
    """

    def __init__(
        self, network: Network, module: Any, kind: str = "float32", layer: str | None = None
    ):
        module = copy.deepcopy(module).to(getattr(torch, kind)).eval().requires_grad_(False)
        self.module, self.traced = module, trace(module, network.preprocessing.size)
        layer = network.resolve(layer)
        place = self.traced.origins.get(layer)
        if place is None or len(place.layout) != 4:
            raise ConvertError(f"PyTorch's module has no map at {layer} of {network.name}")
        halves = _Halves(self.traced, place)
        stages = {layer: halves.trunk, "logits": halves.head}
        self.classifier = Classifier(stages, layer, mean=network.mean, std=network.std)

    def stages(self, inputs: Any) -> dict[str, np.ndarray]:
        """What the modules give of a normalised image `[1, 3, h, w]`, by the node that it is.

        Outputs are copied as each module ends, because others may overwrite them. A module around
        others often gives what the last of them does: it is one node.
        """
        calls: Counter[str] = Counter()
        outputs: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                place = self.traced.outputs.get((name, calls[name]))
                calls[name] += 1
                if place and place.value not in outputs and isinstance(output, torch.Tensor):
                    outputs[place.value] = np.array(_ours(output, place.layout)[0].numpy())

            return hook

        handles = [m.register_forward_hook(keep(name)) for name, m in self.module.named_modules()]
        try:
            with torch.no_grad():
                logits = self.module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return {**outputs, "logits": logits[0].numpy()}


class _Halves:
    """A program before and behind a value; maps are `[1, c, h, w]` between them."""

    def __init__(self, traced: Traced, place: Origin):
        self.nodes, self.place = list(traced.program.graph.nodes), place
        known = constants(traced.program)
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.known = {node: known[node.name].tensor for node in inputs if node.name in known}
        (self.image,) = (node for node in inputs if node.name not in known)
        (self.logits,) = (x for x in self.nodes[-1].args[0] if x is not None)

    def trunk(self, image: Any) -> Any:
        """Of an image the map; the program is that of a batch of two."""
        value = self._run(self.image, image.repeat(2, 1, 1, 1), self.place.value)[:1]
        return _ours(value, self.place.layout).permute(0, 3, 1, 2)

    def head(self, value: Any) -> Any:
        """Of a map the logits."""
        inverse = np.argsort(self.place.layout).tolist()
        value = value.permute(0, 2, 3, 1).permute(inverse).repeat(2, 1, 1, 1)
        return self._run(self.place.value, value, self.logits)[:1]

    def _run(self, given: Any, value: Any, wanted: Any) -> Any:
        """One of the program's values from another."""
        values = {**self.known, given: value}
        needed, stack = set(), [wanted]
        while stack:
            node = stack.pop()
            if node not in values and node not in needed:
                needed.add(node)
                stack.extend(node.all_input_nodes)
        for node in self.nodes:
            if node in needed:
                args, kwargs = with_inputs(node, values.__getitem__)
                values[node] = node.target(*args, **kwargs)
        return values[wanted]


def _ours(value: Any, layout: tuple[int, ...]) -> Any:
    """A value with its axes in our order, the batch's first."""
    return value.permute(layout) if value.ndim == len(layout) else value


def to_torch(network: Network, module: Any) -> dict[str, Any]:
    """The state_dict of a module, with the parameters of a network imported from such a one.

    Where each number belongs is what a trace of the module shows whose weights are 0, 1, 2, ...

    Raises:
        ConvertError: the network is another module's, or has parameters that were computed of
            torch's and do not say what those were.
    """
    state, start = module.state_dict(), 0
    floating = {key: value for key, value in state.items() if value.is_floating_point()}
    numbered = {}
    for key, value in floating.items():
        stop = start + value.numel()
        numbered[key] = torch.arange(start, stop, dtype=torch.float64).reshape(value.shape)
        start = stop
    numbers = np.concatenate(
        [value.double().reshape(-1).numpy() for value in floating.values()] or [np.zeros(0)]
    )
    size, ours = network.preprocessing.size, parameters(network)
    places = trace(_with(module, {**state, **numbered}), size).tensors
    _check_same(network, ours, places)
    for key, place in places.items():
        if not np.isin(place, np.arange(len(numbers))).all():
            raise ConvertError(f"{network.name} does not say what {key} was in PyTorch")
        numbers[place.astype(int)] = np.asarray(ours[key])
    filled = {key: torch.from_numpy(numbers)[value.long()] for key, value in numbered.items()}
    again = trace(_with(module, {**state, **filled}), size).tensors
    _check_same(network, ours, again)
    for key, value in ours.items():
        if not np.array_equal(np.asarray(value), again[key].astype(value.dtype)):
            raise ConvertError(f"{network.name} does not say what {key} was in PyTorch")
    kind = torch.float64 if ours[key].dtype == np.float64 else torch.float32
    return state | {key: value.to(kind) for key, value in filled.items()}


def _with(module: Any, state: Mapping[str, Any]) -> Any:
    """A copy in float64 with these weights."""
    module = copy.deepcopy(module).double().requires_grad_(False)
    module.load_state_dict(state)
    return module


def _check_same(network: Network, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for key in [*ours, *theirs]:
        shapes = [tuple(values[key].shape) for values in (ours, theirs) if key in values]
        if len(shapes) < 2 or shapes[0] != shapes[1]:
            raise ConvertError(
                f"the parameter {key} of {network.name} is not the PyTorch module's: it has changed"
            )
