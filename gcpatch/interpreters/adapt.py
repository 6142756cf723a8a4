"""Networks that were not written for gcpatch, in Flax, Equinox or plain JAX, as `Network`s.

Such a network is a program from an image to logits. It is traced once, with a name (JAX's
`checkpoint_name`) for the output of each of its modules. Where nothing but a named value is read
behind the name, the program can be cut: what comes before is the trunk, what comes after the head.
"""

import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core
from jaxtyping import Array, Float

from gcpatch.errors import UserError
from gcpatch.interpreters.jaxpr import (
    Equation,
    bind,
    evaluate,
    evaluate_equations,
    is_relu,
    read,
    variables,
    written_out,
)
from gcpatch.interpreters.naming import AdaptError, Function, Values, function_of
from gcpatch.networks import Network, Preprocessing, parameters
from gcpatch.networks.graph import nested
from gcpatch.networks.network import ArrayLike, Stage, channels
from gcpatch.networks.parameters import IMPORTED

LOGITS = "logits"  # what is behind the last layer
LISTED = 8


class Layout(NamedTuple):
    """How a network takes one image and gives one map."""

    batched: bool
    channels_first: bool

    def outward(self, value: Array) -> Array:
        """`[h, w, c]`, or a vector, as the network has it."""
        if value.ndim == 3 and self.channels_first:
            value = value.transpose(2, 0, 1)
        return value[None] if self.batched else value

    def inward(self, value: Array) -> Array:
        """What the network has, as `[h, w, c]` or a vector."""
        value = value[0] if self.batched else value
        return value.transpose(1, 2, 0) if value.ndim == 3 and self.channels_first else value


LAYOUTS = tuple(Layout(batched, first) for batched in (True, False) for first in (False, True))


class Adapted(Network):
    """A network that `adapt` made. Its stages end where its program can be cut.

    Args:
        program: of the parameters, in the order of `values`, and of an image.
    """

    def __init__(
        self,
        name: str,
        categories: tuple[str, ...],
        preprocessing: Preprocessing,
        *,
        program: core.Jaxpr,
        layout: Layout,
        values: Values,
    ):
        super().__init__(name, LOGITS, categories, preprocessing)
        self.program, self.layout, self.keys = program, layout, tuple(values)
        setattr(self, IMPORTED, nested({key: nnx.Param(value) for key, value in values.items()}))

    @property
    def options(self) -> dict[str, Any]:
        """The hash of the program, by which the digests of runs tell networks apart."""
        text = re.sub("0x[0-9a-f]+", "", str(self.program))  # addresses of functions
        return {"program": hashlib.sha256(text.encode()).hexdigest()}

    def stages(self) -> Mapping[str, Stage]:
        """The parts of the program, by the name of the layer at the end of each."""
        ends = cuts(self.program)
        starts = [self.program.invars[-1], *ends.values()]
        return {
            name: partial(self._segment, start, end)
            for start, (name, end) in zip(starts, ends.items(), strict=False)
        }

    def _segment(self, start: core.Var, end: core.Var, value: Float[Array, "..."]) -> Array:
        """The program from one of its variables to another."""
        shape = jax.eval_shape(self.layout.inward, start.aval).shape
        if value.shape[value.ndim - len(shape) :] != shape:
            raise UserError(f"{self.name} takes {list(shape)} here, not {list(value.shape)}")

        def run(value: Array) -> Array:
            values = parameters(self)
            inputs = [values[key] for key in self.keys]
            given = dict(zip(self.program.invars, inputs, strict=False)) | {start: value}
            equations = needed(self.program.eqns, end, set(given))
            return read(evaluate_equations(equations, given, _bind), [end])[0]

        def one(value: Array) -> Array:
            return self.layout.inward(run(self.layout.outward(value)))

        if self.layout == LAYOUTS[0] and value.ndim > len(shape) and len(value) == 1:
            return run(value)  # a batch of one, as the network itself takes it
        for _ in range(value.ndim - len(shape)):
            one = jax.vmap(one)
        return one(value)


def adapt(
    model: Any,
    *,
    categories: Sequence[str],
    mean: Sequence[float] | ArrayLike,
    std: Sequence[float] | ArrayLike,
    size: int,
    layer: str | None = None,
    params: Any = None,
    name: str = "adapted",
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> Network:
    """A classifier of one's own as a `Network`: to explain, attack and compare as any other.

    It may take one image or a batch, its channels last or first, and gives as many logits as there
    are categories. A module must be in evaluation mode: one that changes its state when it is
    called is refused.

    Args:
        model: a Flax NNX module; an Equinox module; a Linen module, with its variables as `params`;
            a function of an image, or of `params` and an image; or two such functions, the trunk,
            which gives a map, and the head, which gives logits of it. In a function
            `jax.ad_checkpoint.checkpoint_name(value, NAME)` names a layer.
        categories: the classes' names.
        mean, std: that each channel (RGB, in [0, 1]) is normalised by before the model sees it: 0
            and 1 for one that does so itself.
        size: the sides of the image that it takes, in pixels.
        layer: the layer that Grad-CAM explains: the output of the module of this path, such as
            `layers.4`, or the ReLU of it, `relu(layers.4)`; the last that gives a map of several
            cells if None.
        params: a pytree of the function's parameters, or a Linen module's variables.
        name: what records call it.
        resize, interpolation: of photographs, under `--resize-mode crop`; `size` if None.

    Raises:
        AdaptError: it cannot be called so, gives other logits, has fewer than two classes or
            parameters that are not finite, or changes its state.
        UserError: it has no such layer, or cannot be cut there.
    """
    if isinstance(categories, str) or not isinstance(categories, Sequence):
        raise AdaptError(f"categories is {categories!r}; give a list of the classes' names")
    if odd := [each for each in categories if not isinstance(each, str)]:
        raise AdaptError(f"the category {odd[0]!r} is no name; each must be a text")
    categories = tuple(categories)
    if len(categories) < 2:
        raise AdaptError(f"{name} has {len(categories)} categories; a classifier has at least 2")
    preprocessing = Preprocessing(
        channels(mean), channels(std), size, resize or size, interpolation
    )
    function, values = function_of(model, params)
    layout = _layout(function, values, size, len(categories), name)
    program, values = _trace(function, values, _image(layout, size))
    if wrong := [key for key, value in values.items() if not _finite(value)]:
        listed = ", ".join(key or "params" for key in wrong[:LISTED])
        raise AdaptError(f"{name} has parameters that are not finite: {listed}")
    network = Adapted(
        name, categories, preprocessing, program=program, layout=layout, values=values
    )
    network.target_layer = _last_map(network) if layer is None else layer
    network.resolve()  # raises where it cannot be cut there
    return network


# ---- how it is called, and the program that this gives


def _trace(
    function: Function, values: Values, image: jax.ShapeDtypeStruct
) -> tuple[core.Jaxpr, Values]:
    """The function's program, and its parameters, among them the arrays that it closes over."""
    found = written_out(function, values, image)
    constants = {f"constant{i}": jnp.asarray(const) for i, const in enumerate(found.consts)}

    def with_constants(every: Values, image: Array) -> Array:
        leaves = jax.tree.leaves({key: every[key] for key in values})
        closed = core.ClosedJaxpr(found.jaxpr, [every[key] for key in constants])
        return evaluate(closed, [*leaves, image])[0]

    every = dict(sorted({**values, **constants}.items()))
    return jax.make_jaxpr(with_constants)(every, image).jaxpr, every


def _image(layout: Layout, size: int) -> jax.ShapeDtypeStruct:
    one = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    return jax.eval_shape(layout.outward, one)


def _layout(function: Function, values: Values, size: int, classes: int, name: str) -> Layout:
    """How the network takes an image: the first layout that gives logits.

    Raises:
        AdaptError: none does, and the message says what each came to; or several do, which differ;
            or what it gives are no logits, or have no gradient.
    """
    outcomes: dict[str, list[str]] = {}
    answers: dict[Layout, Array] = {}
    pixels = jax.random.normal(jax.random.key(0), (size, size, 3))
    for layout in LAYOUTS:
        image = layout.outward(pixels)
        try:
            output = jax.eval_shape(function, values, image)
        except AdaptError:
            raise
        except Exception as error:  # whatever a user's function raises
            outcome = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" ...")
        else:
            shape = getattr(output, "shape", None)
            if shape == (1, classes)[not layout.batched :]:
                answers[layout] = _logits(function, values, image, name)
            outcome = type(output).__name__ if shape is None else str(list(shape))
        outcomes.setdefault(outcome, []).append(str(list(image.shape)))
    if not answers:
        said = "; ".join(f"of {', '.join(images)}: {one}" for one, images in outcomes.items())
        raise AdaptError(
            f"{name} does not give {classes} logits, one for each category, of any image; {said}"
        )
    first, *others = answers.values()
    near = partial(jnp.allclose, first, rtol=1e-3, atol=1e-4, equal_nan=True)
    if not all(map(near, others)):
        raise AdaptError(
            f"{name} takes an image with its channels last as well as first, and gives other "
            "logits: let it refuse one of them, as by `assert image.shape[-1] == 3`"
        )
    return next(iter(answers))


def _logits(function: Function, values: Values, image: Array, name: str) -> Array:
    """The logits of an image; AdaptError where they are none, or have no gradient by it."""

    def total(image: Array, values: Values) -> tuple[Array, Array]:
        logits = function(values, image)
        return (logits * jnp.arange(1.0, logits.size + 1)).sum(), logits

    try:
        gradient, logits = jax.jit(jax.grad(total, has_aux=True))(image, values)
    except AdaptError:
        raise
    except Exception as error:  # whatever JAX says of loops and callbacks
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        raise AdaptError(f"{name} has no gradient by the image ({reason})") from None
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise AdaptError(f"{name} gives {logits.dtype}; logits are floats")
    if not gradient.any():
        raise AdaptError(f"{name} has no gradient by the image: it is zero everywhere")
    if (logits >= 0).all() and abs(logits.sum() - 1) < 1e-3:
        raise AdaptError(
            f"{name} gives probabilities, which sum to 1; logits are wanted, so leave the softmax "
            "out"
        )
    return logits.ravel()


def _finite(value: Array) -> bool:
    return not jnp.issubdtype(value.dtype, jnp.inexact) or bool(jnp.isfinite(value).all())


# ---- where a program can be cut


def _bind(equation: Equation, values: list[Any]) -> list[Any]:
    """An equation's outputs; names are not needed any more."""
    return values if equation.primitive.name == "name" else bind(equation, values)


def needed(equations: Sequence[Equation], end: core.Var, given: set[core.Var]) -> list[Equation]:
    """The equations that make a variable of those that are given."""
    wanted, kept = {end} - given, []
    for equation in reversed(equations):
        if wanted & set(equation.outvars):
            kept.append(equation)
            wanted = (wanted | set(variables(equation.invars))) - given - set(equation.outvars)
    return kept[::-1]


def cuts(program: core.Jaxpr) -> dict[str, core.Var]:
    """The named values that everything of the image passes through, and the logits, in order.

    A ReLU of a named value, which often is a function and no module, is named after it.
    """
    image, logits = program.invars[-1], program.outvars[0]
    if isinstance(logits, core.Literal):
        raise AdaptError("the logits do not depend on the image")
    equations = needed(program.eqns, logits, set(program.invars))
    names: dict[core.Var, str] = {}
    found: dict[str, core.Var] = {}
    for index, equation in enumerate(equations):
        if equation.primitive.name == "name":
            name = equation.params["name"]
        elif is_relu(equation) and equation.invars[0] in names:
            name = f"relu({names[equation.invars[0]]})"
        else:
            continue
        names[equation.outvars[0]] = name
        if _is_cut(equations, index, image):
            found.pop(name, None)  # a module that is called again: its last output counts
            found[name] = equation.outvars[0]
    return found | {LOGITS: logits}


def _is_cut(equations: Sequence[Equation], index: int, image: core.Var) -> bool:
    """Whether what an equation gives is all that is read of the image behind it."""
    before = _of({image}, equations[: index + 1])
    value = set(equations[index].outvars)
    return not any(
        (before - value) & set(variables(later.invars)) for later in equations[index + 1 :]
    )


def _of(sources: set[core.Var], equations: Sequence[Equation]) -> set[core.Var]:
    """The variables that depend on these, and these."""
    found = set(sources)
    for equation in equations:
        if found & set(variables(equation.invars)):
            found |= set(equation.outvars)
    return found


def _last_map(network: Adapted) -> str:
    """The last layer that gives a map of several cells.

    Raises:
        AdaptError: none does.
    """
    maps = [
        name
        for name, variable in cuts(network.program).items()
        if len(shape := jax.eval_shape(network.layout.inward, variable.aval).shape) == 3
        and shape[0] * shape[1] > 1
    ]
    if not maps:
        raise AdaptError(
            f"{network.name} has no named layer with a map [h, w, c] that all values pass through: "
            "name one by jax.ad_checkpoint.checkpoint_name, or give two functions, (trunk, head)"
        )
    return maps[-1]
