"""Any PyTorch CNN as a graph of operations, traced once by torch.export.

torch.export writes down what an evaluated module computes as a list of ATen operations, each with
the name of the module that called it. Here each becomes a node of a `gcpatch.networks.graph`, by
the handlers in `aten.py`; what is computed from parameters alone becomes a parameter.
"""

import importlib
import itertools
import logging
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from convert import ConvertError
from convert.operators import torch, torchvision
from convert.reading.files import first_line
from convert.tracing.aten import HANDLERS
from convert.tracing.writer import BATCH, Constant, Draft, Unsupported, Value, Writer
from gcpatch.errors import UserError
from gcpatch.networks import Network, Preprocessing, factories, fill
from gcpatch.networks.graph import IMAGE, Graph, Node, create, cuts

ATTENTION = ("scaled_dot_product_attention", "matmul", "bmm", "einsum", "baddbmm")
# What may stand between the last map and the global pooling, and is not what Grad-CAM explains.
BEHIND = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout", "pad", "transpose")
EXPANSIONS, EXPANDING = {"expand", "expand_as"}, {"add", "addcmul", "div", "mul", "sub"}


class Origin(NamedTuple):
    """The value of torch's that a node is, and which of its axes each axis of the node's is."""

    value: Any
    layout: tuple[int, ...]


class Traced(NamedTuple):
    """What tracing a module gives.

    Attributes:
        graph: as JSON.
        tensors: the graph's parameters by key.
        classes: how many there are.
        program: torch.export's.
        origins: the value of the program (`Origin.value`) that each node is, by the node's name.
        outputs: the node (`Origin.value`) that a module's output is, by the module's name and by
            how often it was called before.
    """

    graph: dict[str, Any]
    tensors: dict[str, np.ndarray]
    classes: int
    program: Any
    origins: dict[str, Origin]
    outputs: dict[tuple[str, int], Origin]


def build(spec: str, *, pretrained: bool = False) -> Any:
    """The evaluated PyTorch module of `torchvision:NAME`, `timm:NAME` or `module:factory`.

    Args:
        spec: what it is.
        pretrained: whether timm shall fetch its weights.

    Raises:
        ConvertError: there is none of this name, or the factory raises or gives something else.
    """
    source, _, name = spec.partition(":")
    try:
        if source == "torchvision":
            auxiliary = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            module = torchvision.models.get_model(name, weights=None, **auxiliary)
        elif source == "timm":
            module = importlib.import_module("timm").create_model(name, pretrained)
        else:
            module = factories.find(spec, "network")()
        module = module.eval() if isinstance(module, torch.nn.Module) else module
    except UserError as error:
        raise ConvertError(str(error)) from error
    except (Exception, SystemExit) as error:  # of code that is not ours
        if getattr(error, "name", None) == "timm":
            raise ConvertError("timm is not installed: pip install timm") from error
        raise ConvertError(f"{spec} gives no module ({_said(error)})") from error
    if isinstance(module, Network):
        raise ConvertError(f"{spec} gives a network of JAX: --model {spec} takes it as it is")
    if not isinstance(module, torch.nn.Module):
        raise ConvertError(f"{spec} gives a {type(module).__name__} instead of a torch.nn.Module")
    return module


def from_module(
    module: Any,
    name: str,
    categories: tuple[str, ...] | None = None,
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
    target_layer: str | None = None,
) -> Graph:
    """A network that computes what a PyTorch module does, with copies of its weights.

    float64 stays where jax_enable_x64 is set, all else becomes float32.

    Args:
        module: takes normalised images `[n, 3, size, size]` and gives logits `[n, classes]`.
        name: the network's.
        categories: the classes' names; numbered if None.
        preprocessing: what the module takes images as.
        target_layer: what Grad-CAM explains; the last map before the global pooling if None.

    Raises:
        ConvertError: the module cannot be traced, has an operation that is not known, or gives
            something else than a logit for each of the categories.
        UserError: there is no such layer, or the network cannot be cut there.
    """
    traced = trace(module, preprocessing.size)
    graph = traced.graph | ({"target_layer": target_layer} if target_layer else {})
    categories = categories or tuple(f"class {i}" for i in range(traced.classes))
    return fill(create(graph, name, categories, preprocessing), traced.tensors)


def trace(module: Any, size: int = 224) -> Traced:
    """An evaluated module's graph, parameters and classes; for errors see `from_module`."""
    module = module.eval()
    program = _export(module, size)
    nodes = list(program.graph.nodes)
    _refuse_attention(module, nodes)
    tracer = _Tracer(program, {name for name, part in module.named_modules() if _is_leaf(part)})
    outputs: list[Any] = []
    for node in nodes:
        if node.op == "output":
            outputs = [tracer.values[found] for found in node.args[0] if found is not None]
        else:
            tracer.values[node] = tracer.translate(node)
            tracer.note(node)
    logits = _logits(outputs)
    drafts = _needed(tracer.writer.drafts, logits.node)
    _name(drafts, tracer.writer.leaves)
    tensors = _parameters(drafts)
    written = [_written(draft) for draft in drafts]
    graph = {
        "target_layer": _target(drafts, cuts([Node(**node) for node in written])),
        "parameters": {key: list(array.shape) for key, array in tensors.items()},
        "nodes": written,
    }
    return Traced(graph, tensors, logits.shape[1], program, *tracer.noted())


def _is_leaf(module: Any) -> bool:
    return not [*module.children()]


def _export(module: Any, size: int) -> Any:
    """torch.export's program of a module, without operations in place."""
    kinds = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    dtype = next(iter(kinds), torch.float32)
    image = torch.zeros(BATCH, 3, size, size, dtype=dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quietly():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (image,), strict=False).run_decompositions({})
    except Exception as error:  # torch.export runs the module's own code
        if "data-dependent" in str(error).lower() or "DataDependent" in type(error).__name__:
            raise ConvertError(
                "this module decides by its input's values what it computes, which a graph "
                f"cannot hold ({_said(error)})"
            ) from error
        raise ConvertError(
            f"torch.export cannot trace this module with images of {size} pixels ({_said(error)})"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's own log, which has the whole program in it where it cannot be traced."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _refuse_attention(module: Any, nodes: Sequence[Any]) -> None:
    kinds = [type(part).__name__ for part in module.modules()]
    found = [kind for kind in kinds if kind == "MultiheadAttention"]
    found += [_word(node) for node in nodes if node.op == "call_function"]
    if names := [name for name in found if name in (*ATTENTION, "MultiheadAttention")]:
        raise ConvertError(
            "networks with attention, such as vision transformers, cannot be converted: they have "
            f"no map of convolution for Grad-CAM to explain (found {names[0]})"
        )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


# ---- from ATen operations to drafts


class _Tracer:
    """The values of a program's nodes, one after another."""

    def __init__(self, program: Any, leaves: set[str]):
        self.writer = Writer(leaves)
        self.values: dict[Any, Any] = {}
        self.origins: list[tuple[Draft, Origin]] = []
        self.calls: dict[tuple[str, str], Value] = {}
        self.constants = constants(program)

    def translate(self, node: Any) -> Any:
        """What a node gives: a value, a constant, or several."""
        if node.op == "placeholder" and node.name in self.constants:
            return self.constants[node.name]
        if node.op == "placeholder":
            return Value(IMAGE, tuple(node.meta["val"].shape), (0, 2, 3, 1))
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        self.writer.call, self.writer.module = _modules(node)[-1]
        if not any(isinstance(self.values[source], Value) for source in node.all_input_nodes):
            return self._fold(node)
        word = _word(node)
        try:
            if word not in HANDLERS:
                raise Unsupported(f"known are {', '.join(sorted(HANDLERS))}")
            if word in EXPANSIONS and not {_word(user) for user in node.users} <= EXPANDING:
                raise Unsupported("its values are used by other operations than sums and products")
            value = HANDLERS[word](self.writer, **self._arguments(node))
            _check_shapes(value, node.meta["val"])
        except Unsupported as error:
            raise ConvertError(self._refusal(word, str(error))) from None
        except (AttributeError, TypeError, ValueError) as error:  # of arguments of other kinds
            reason = f"it is used in a way that is not known ({_said(error)})"
            raise ConvertError(self._refusal(word, reason)) from error
        return value

    def note(self, node: Any) -> None:
        """Remembers which node a value is, and that its modules have given it last."""
        value = self.values[node]
        if isinstance(value, Value) and value.node is not IMAGE:
            if value.shape == tuple(node.meta["val"].shape):
                self.origins.append((value.node, Origin(node, value.layout)))
            self.calls |= {(module, call): value for call, module in _modules(node)}

    def noted(self) -> tuple[dict[str, Origin], dict[tuple[str, int], Origin]]:
        """`Traced.origins` and `Traced.outputs`, of drafts that have a name."""
        origins = {draft.name: origin for draft, origin in reversed(self.origins) if draft.name}
        outputs, counts = {}, Counter[str]()
        for (module, _), value in self.calls.items():
            if value.node.name:
                outputs[module, counts[module]] = Origin(value.node.name, value.layout)
            counts[module] += 1
        return origins, outputs

    def _refusal(self, word: str, reason: str) -> str:
        place = self.writer.module or "the network itself"
        return f"the operation {word} in {place} cannot be converted: {reason}"

    def _arguments(self, node: Any) -> dict[str, Any]:
        """An operation's arguments by torch's names for them, defaults included."""
        args, kwargs = with_inputs(node, self.values.__getitem__)
        schema = node.target._schema.arguments
        defaults = {x.name: x.default_value for x in schema if x.has_default_value()}
        named = {x.name: value for x, value in zip(schema, args, strict=False)}
        return defaults | named | kwargs

    def _fold(self, node: Any) -> Any:
        """The value of an operation on parameters alone."""
        args, kwargs = with_inputs(node, lambda source: self.values[source].tensor)
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            return Constant(result, None)
        return [Constant(part, None) for part in result]


def constants(program: Any) -> dict[str, Constant]:
    """The parameters of a program, by the names of the nodes that stand for them."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**program.state_dict, **program.constants}
    return {node: Constant(tensors[name].detach(), name) for node, name in names.items()}


def _modules(node: Any) -> list[tuple[str, str]]:
    """The calls of modules that a node is in, outermost first, and the modules' names."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return [(call, path.partition("@")[0]) for call, (path, _) in stack.items()]


def with_inputs(node: Any, value_of: Callable[[Any], Any]) -> tuple[tuple, dict[str, Any]]:
    """A node's arguments, with values in the place of other nodes."""
    return torch.fx.node.map_arg((node.args, dict(node.kwargs)), value_of)


def _word(node: Any) -> str:
    """An ATen operation's name without its overload."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema else str(node.target)


def _check_shapes(value: Any, expected: Any) -> None:
    """Raises Unsupported where a handler did not understand torch; what is expanded may be one."""
    if isinstance(value, list):
        for one, other in zip(value, expected, strict=False):
            _check_shapes(one, other)
        return
    pairs = list(zip(value.shape, expected.shape, strict=False))
    if len(value.shape) != len(expected.shape) or any(n not in (1, m) for n, m in pairs):
        raise Unsupported(f"it gives {list(value.shape)} instead of {list(expected.shape)}")


# ---- from drafts to a graph


def _logits(outputs: Sequence[Any]) -> Value:
    """The one output; ConvertError where it is not `[images, classes]`."""
    if len(outputs) != 1 or not isinstance(outputs[0], Value) or outputs[0].node is IMAGE:
        raise ConvertError(
            f"this module gives {len(outputs)} outputs, or one that does not depend on the image, "
            "instead of one tensor of logits [images, classes]"
        )
    if len(outputs[0].shape) != 2:
        sizes = ", ".join(["images", *map(str, outputs[0].shape[1:])])
        raise ConvertError(f"this module gives [{sizes}] instead of logits [images, classes]")
    if outputs[0].shape[1] < 2:
        raise ConvertError("this module gives one logit; a classifier has two classes or more")
    if outputs[0].node.operation == "softmax":
        raise ConvertError(
            "this module ends in a softmax and gives probabilities; logits are wanted, so leave "
            "the softmax out"
        )
    return outputs[0]


def _needed(drafts: Sequence[Draft], last: Draft) -> list[Draft]:
    """The drafts that one depends on, itself included."""
    wanted, stack = {id(last)}, [last]
    while stack:
        for draft in stack.pop().inputs:
            if draft is not IMAGE and id(draft) not in wanted:
                wanted.add(id(draft))
                stack.append(draft)
    return [draft for draft in drafts if id(draft) in wanted]


def _name(drafts: Sequence[Draft], leaves: set[str]) -> None:
    """torch's name of the module where a node is all of its call, else with the operation's.

    The second of a name has `_1` behind it, as in torchvision's feature extraction.
    """
    calls = Counter((draft.module, draft.call) for draft in drafts)
    taken: set[str] = set()
    for draft in drafts:
        alone = draft.module in leaves and calls[draft.module, draft.call] == 1
        parts = [draft.module] if alone else [draft.module, draft.label or draft.operation]
        name = ".".join(part for part in parts if part)
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        draft.name = next(x for x in itertools.chain([name], numbered) if x not in taken)
        taken.add(draft.name)


def _parameters(drafts: Sequence[Draft]) -> dict[str, np.ndarray]:
    """The drafts' parameters by key; each draft is told the keys of its own."""
    tensors: dict[str, np.ndarray] = {}
    for draft in drafts:
        for role, (constant, word, array) in draft.parameters.items():
            key = _key(constant, word, role, draft.name)
            while key in tensors and not np.array_equal(tensors[key], array):
                key += "_"  # one tensor of torch's in two forms
            tensors[key], draft.keys[role] = array, key
    for key, array in tensors.items():
        if not np.isfinite(array).all():
            raise ConvertError(f"the parameter {key} holds other values than finite numbers")
    return tensors


def _key(constant: Constant, word: str | None, role: str, node: str) -> str:
    """A parameter's key: torch's name, its last word exchanged where ours is another."""
    if constant.name is None:
        return f"{node}.{word or role}"
    owner, _, last = constant.name.rpartition(".")
    return ".".join(part for part in (owner, word or last) if part)


def _written(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "operation": draft.operation,
        "inputs": [x if x is IMAGE else x.name for x in draft.inputs],
        "attributes": draft.attributes,
        "parameters": draft.keys,
        "layout": list(draft.layout),
    }


def _target(drafts: Sequence[Draft], places: Sequence[int]) -> str:
    """The last map before the global pooling, where the network can be cut."""
    for draft in reversed([drafts[i] for i in places]):
        is_map = draft.layout == (0, 2, 3, 1) and math.prod(draft.shape[2:]) > 1
        if is_map and draft.operation not in BEHIND:
            return draft.name
    raise ConvertError("this module has no map of more than one cell for Grad-CAM to explain")
