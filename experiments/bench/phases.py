"""Where a step's time goes: its phases timed one by one, and its heaviest instructions."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.programs import Compiled, reach_for
from gcpatch.attacks import engine, slots
from gcpatch.attacks.blending import cut
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.step import evaluate, init_state, make_problem
from gcpatch.evaluation.bench import clock, images_for, side_of
from gcpatch.networks import Network

SIZES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "pred": 1}
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \(?(\w+)\[([\d,]*)\]\S* (\S+?)\(")


def _ms(call: Callable[[], Any]) -> float:
    return 1e3 * clock(lambda: jax.block_until_ready(call()), 3).step


def phases(
    compiled: Compiled, network: Network
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each phase's name and what times it, in milliseconds for `of` so many images."""
    case, how = compiled.case, compiled.attack
    side, batch = side_of(network), case.batch
    network = jax.device_put(network)
    (image,) = images_for(1, side)
    place = Patch(case.side).place(side, side)
    _, problem = compiled.one
    reach = reach_for(network, jnp.asarray(image), case.side)
    exact = case.variant == "incremental"

    def row(call: Callable[[], Any], of: int) -> dict[str, Any]:
        return {"ms": _ms(call), "of": of}

    def steps() -> dict[str, Any]:
        held = [compiled.batched()]

        def step() -> Any:
            states, problems = held[0]
            states, losses = compiled.program(*compiled.weights, states, problems, how)
            held[0] = states, problems
            return losses

        found = row(step, batch)
        return found | {"ms": found["ms"] / case.steps}

    def inside(differentiate: bool, head: bool = True) -> dict[str, Any]:
        kept = reach.program if exact else None

        def one(network: Any, problem: Any) -> Any:
            forward = engine.forward_of(network, problem, None, kept)
            tile = cut(problem.image, problem.corner, place.shape)
            if not head:
                return forward(tile).sum()
            if not differentiate:
                return evaluate(network, tile, problem, how, forward)[0]
            slope = jax.grad(evaluate, argnums=1, has_aux=True)
            return slope(network, tile, problem, how, forward)[0]

        with jax.default_matmul_precision("tensorfloat32"):
            whole = jax.jit(jax.vmap(one, (None, 0)))
            program = whole.lower(network, compiled.batched()[1]).compile()
        problems = compiled.batched()[1]
        return row(lambda: program(network, problems), batch)

    yield "step", steps
    if exact:
        yield (
            "precompute, one image",
            lambda: row(lambda: engine.remember(network, problem, reach).memory, 1),
        )

        def together() -> dict[str, Any]:
            images = jnp.broadcast_to(jnp.asarray(image), (32, side, side, 3))
            keep = jax.jit(
                jax.vmap(
                    lambda image: reach.program.precompute(network, image, reach.places).memory
                )
            )
            return row(lambda: keep(images), 32)

        yield "precompute, 32 images together", together
    yield (
        "make_problem, one image",
        lambda: row(
            lambda: (
                make_problem(
                    network, image, 1, how, placement=place, key=jax.random.key(0)
                ).clean_heat
            ),
            1,
        ),
    )
    begin = jax.jit(init_state, static_argnames="shape")
    yield "init_state", lambda: row(lambda: begin(network, problem, place.shape, how).noise, 1)

    def enter() -> dict[str, Any]:
        held = [compiled.batched()]

        def put() -> Any:
            held[0] = slots._put(held[0], 0, compiled.one, None)
            return held[0][0].noise

        return row(put, 1)

    yield "enter a slot (_put)", enter

    def leave() -> dict[str, Any]:
        states = compiled.batched()[0]
        return row(lambda: jax.tree.map(np.asarray, slots._take(states, 0)), 1)

    yield "leave a slot (_take, to the host)", leave
    yield "loss and gradient", partial(inside, True)
    yield "trunk forward alone", partial(inside, False, False)
    yield "loss forward", partial(inside, False)


def heaviest(compiled: Compiled, most: int = 12) -> Iterator[dict[str, Any]]:
    """The program's flops and bytes, and its instructions and opcodes by what they write."""
    found: Any = compiled.program.cost_analysis()
    costs = found[0] if isinstance(found, list) else found
    flops, moved = costs.get("flops", 0), costs.get("bytes accessed", 0)
    note = f"{flops:.3g} flops, {moved:.3g} bytes (a loop's body counted once)"
    yield {"phase": f"{compiled.case.variant}: cost analysis", "note": note}
    written: Counter[str] = Counter()
    lines: list[tuple[int, str]] = []
    fused = False
    for line in compiled.program.as_text().splitlines():
        if line.endswith("{") and not line.startswith(" "):
            fused = "fused" in line or "wrapped" in line or "parallel" in line
        if not fused and (match := INSTRUCTION.match(line)):
            name, kind, shape, opcode = match.groups()
            if opcode in ("parameter", "get-tuple-element", "bitcast", "tuple", "constant"):
                continue
            size = SIZES.get(kind, 4) * int(np.prod([int(n) for n in shape.split(",") if n]))
            written[opcode] += size
            lines.append((size, f"{name} {kind}[{shape}] {opcode}"))
    for opcode, size in written.most_common(8):
        note = f"{opcode}: {size / 1e6:.0f} MB written in all"
        yield {"phase": f"{compiled.case.variant}: opcodes", "note": note}
    for size, text in sorted(lines, reverse=True)[:most]:
        yield {
            "phase": f"{compiled.case.variant}: instruction",
            "note": f"{size / 1e6:.0f} MB {text}",
        }
