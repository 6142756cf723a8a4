"""Networks that are not written out here, as graphs of operations that `convert/tracing` makes.

A graph is plain JSON. Its nodes run in a row, the last one gives the logits, and nothing in it is
code: a node names one of `operations.OPERATIONS`, the nodes that it reads, and its parameters.

    {"target_layer": "layer4.1.relu_1",                 what Grad-CAM explains by default
     "parameters": {"conv1.kernel": [7, 7, 3, 64], ...},                     shapes
     "nodes": [{"name": "conv1", "operation": "conv2d", "inputs": ["image"],
                "attributes": {"strides": [2, 2], ...}, "parameters": {"kernel": "conv1.kernel"},
                "layout": [0, 2, 3, 1]}, ...]}          torch's axes, batch first, in our order
"""

import functools
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gcpatch.errors import UserError
from gcpatch.networks.network import ArrayLike, Network, Preprocessing, Stage
from gcpatch.networks.operations import OPERATIONS
from gcpatch.networks.parameters import IMPORTED

ARCHITECTURE = "graph"
IMAGE = "image"  # the name of the normalised image among the inputs of nodes
STATISTICS = ("mean", "var")
LISTED = 6


class GraphError(UserError):
    """A graph that cannot be run; the message is one sentence that says why."""


@dataclass(frozen=True)
class Node:
    """One operation: the names of the nodes that it reads, its settings and its parameters.

    Attributes:
        parameters: the key of each parameter by its role, such as `kernel`.
        layout: which of torch's axes each axis of the output is, the batch's first.
    """

    name: str
    operation: str
    inputs: Sequence[str]
    attributes: Mapping[str, Any]
    parameters: Mapping[str, str]
    layout: Sequence[int]


@dataclass(frozen=True)
class Parsed:
    """A graph's nodes, the shapes of its parameters, and where the network can be cut.

    Attributes:
        cuts: the places of the nodes that the network passes through alone: nothing from before
            them is read behind them.
    """

    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int, ...]]
    cuts: tuple[int, ...]
    target_layer: str


class Graph(Network):
    """A network of a traced graph. Its stages end at the nodes that it passes through alone.

    Args:
        graph: the JSON, as text; see `create`, which also checks it.
    """

    def __init__(
        self,
        name: str,
        categories: tuple[str, ...],
        *,
        graph: str,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
    ):
        parsed = parse(graph)
        super().__init__(name, parsed.target_layer, categories, preprocessing)
        self.architecture, self.graph = ARCHITECTURE, graph
        leaves = {
            key: (nnx.BatchStat if key.rpartition(".")[2] in STATISTICS else nnx.Param)(
                jnp.zeros(shape, jnp.float32)
            )
            for key, shape in parsed.shapes.items()
        }
        setattr(self, IMPORTED, nested(leaves))

    def describe(self) -> dict[str, Any]:
        """The graph as JSON; `create` takes it back."""
        return json.loads(self.graph)

    @property
    def options(self) -> dict[str, Any]:
        """The graph, which a manifest stores and the digest covers."""
        return {"graph": self.describe()}

    def stages(self) -> Mapping[str, Stage]:
        parsed = parse(self.graph)
        starts = (-1, *parsed.cuts)
        return {
            parsed.nodes[stop].name: partial(self._segment, start, stop)
            for start, stop in zip(starts, parsed.cuts, strict=False)
        }

    def activations(self, image: Float[ArrayLike, "*batch h w 3"]) -> dict[str, Array]:
        """The output of every node, by name, in the order in which they run."""
        nodes = parse(self.graph).nodes
        values = self._run(nodes, {IMAGE: self.normalize(jnp.asarray(image))})
        return {node.name: values[node.name] for node in nodes}

    def resolve(self, layer: str | None = None) -> str:
        """The full name of the node that `layer` stands for; see `split`.

        Raises:
            UserError: there is no such node, or the network cannot be cut there.
        """
        layer = self.target_layer if layer is None else layer
        parsed = parse(self.graph)
        names = [node.name for node in parsed.nodes]
        matches = [
            i for i, name in enumerate(names) if name == layer or name.startswith(f"{layer}.")
        ]
        ends = [names[i] for i in parsed.cuts]
        if not matches:
            listed = _listed(ends, ends[-LISTED:])
            raise UserError(f"{self.name} has no layer {layer!r}; it can be cut at {listed}")
        if matches[-1] not in parsed.cuts:
            distances = {names[i]: abs(i - matches[-1]) for i in parsed.cuts}
            nearest = sorted(ends, key=distances.__getitem__)[:LISTED]
            raise UserError(
                f"{self.name} cannot be cut at {names[matches[-1]]}, because other layers' values "
                f"pass it by; it can be at {_listed(ends, [end for end in ends if end in nearest])}"
            )
        return names[matches[-1]]

    def _segment(self, start: int, stop: int, value: Array) -> Array:
        """The nodes behind one, as far as another, from the output of the first."""
        nodes = parse(self.graph).nodes
        given = {nodes[start].name if start >= 0 else IMAGE: value}
        return self._run(nodes[start + 1 : stop + 1], given)[nodes[stop].name]

    def _run(self, nodes: Iterable[Node], values: dict[str, Array]) -> dict[str, Array]:
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            parameters = {role: self._parameter(key) for role, key in node.parameters.items()}
            values[node.name] = OPERATIONS[node.operation](*inputs, **parameters, **node.attributes)
        return values

    def _parameter(self, key: str) -> Array:
        found = functools.reduce(lambda tree, word: tree[word], key.split("."), self._imported())
        return found[...]

    def _imported(self) -> Any:
        return getattr(self, IMPORTED)


def create(
    graph: Mapping[str, Any],
    name: str,
    categories: tuple[str, ...],
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
) -> Graph:
    """A network of a graph without weights: its parameters are shapes, for `fill` to replace.

    Raises:
        GraphError: the graph is malformed, cannot be run on images of this size, or does not give
            as many logits as there are categories.
        UserError: it has no such target layer, or cannot be cut there.
    """
    text = json.dumps(graph, sort_keys=True)
    network = nnx.eval_shape(
        lambda: Graph(name, categories, graph=text, preprocessing=preprocessing)
    )
    network.resolve()
    side = preprocessing.size
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    try:
        logits = jax.eval_shape(lambda network, image: network(image), network, image)
    except Exception as error:  # of any operation, with settings or shapes that it cannot take
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise GraphError(
            f"the graph of {name} cannot be run on images of {side} pixels ({reason})"
        ) from error
    if logits.shape != (len(categories),):
        raise GraphError(
            f"the graph of {name} gives {list(logits.shape)} instead of {len(categories)} logits"
        )
    return network


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Parsed:
    """A graph from its JSON, checked as far as it can be without running it.

    Raises:
        GraphError: it is malformed or has an operation that is not known.
    """
    try:
        graph = json.loads(text)
        shapes = {key: tuple(map(int, shape)) for key, shape in graph["parameters"].items()}
        nodes = tuple(_node(**node) for node in graph["nodes"])
        target = str(graph["target_layer"])
        known = {IMAGE}
        for node in nodes:
            _check(node, known, shapes)
            known.add(node.name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise GraphError(f"the graph is malformed ({reason})") from error
    if not nodes:
        raise GraphError("the graph has no nodes")
    return Parsed(nodes, shapes, cuts(nodes), target)


def _node(**fields: Any) -> Node:
    """A node from JSON; TypeError where a field is not of its kind."""
    kinds = {"attributes": dict, "parameters": dict, "inputs": list, "layout": list}
    for field, value in fields.items():
        if not isinstance(value, kinds.get(field, str)):
            raise TypeError(f"a node's {field} is {value!r}")
    return Node(**fields)


def _check(node: Node, known: set[str], shapes: Mapping[str, Any]) -> None:
    """Raises GraphError where a node is not one that can follow those that are known."""
    if node.operation not in OPERATIONS:
        choices = ", ".join(OPERATIONS)
        raise GraphError(
            f"node {node.name} has the unknown operation {node.operation!r}; known are {choices}"
        )
    if node.name in known:
        raise GraphError(f"the graph has two nodes of the name {node.name}")
    if missing := [name for name in node.inputs if name not in known]:
        raise GraphError(f"node {node.name} reads {missing[0]!r}, which is not before it")
    if missing := [key for key in node.parameters.values() if key not in shapes]:
        raise GraphError(f"node {node.name} has the parameter {missing[0]!r} without a shape")


def cuts(nodes: Sequence[Node]) -> tuple[int, ...]:
    """The places of the nodes behind which nothing from before them is read."""
    last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    reach = [last.get(IMAGE, 0), *(last.get(node.name, i) for i, node in enumerate(nodes))]
    before = np.maximum.accumulate(reach)
    return tuple(i for i in range(len(nodes)) if before[i] <= i)


def nested(leaves: Mapping[str, Any]) -> nnx.Dict:
    """A tree of dictionaries from dotted keys."""
    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *path, word = key.split(".")
        functools.reduce(lambda branch, step: branch.setdefault(step, {}), path, tree)[word] = leaf
    return _dictionary(tree)


def _dictionary(tree: dict[str, Any]) -> nnx.Dict:
    return nnx.Dict(
        {word: _dictionary(x) if isinstance(x, dict) else x for word, x in tree.items()}
    )


def _listed(names: Sequence[str], some: Sequence[str]) -> str:
    more = len(names) - len(some)
    return ", ".join(some) + (f" and {more} others" if more else "")
