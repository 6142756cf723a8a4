"""One run on an accelerator: parity, speed beside PyTorch, a campaign to success, and a profile.

    PYTHONPATH=. python -m experiments.bench.accelerator --out DIR --minutes 5 \
        --network NAME --images MANIFEST

`--network` is for the campaign and for parity with trained weights. The stages go from the most to
the least important, and each may use its share of the minutes and what those before it left. Each
row goes to DIR/rows.jsonl and into DIR/table.md as soon as it is measured; a row that fails says
why. `--small` is a trial of everything within minutes on a CPU.
"""

import argparse
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the memory

import json
import math
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench import programs
from experiments.bench.phases import heaviest, phases
from experiments.bench.programs import Case, Compiled
from gcpatch.attacks import engine, slots
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import make_problem
from gcpatch.data import hints, scenes, sources
from gcpatch.errors import UserError
from gcpatch.evaluation.bench import clock, images_for, machine, side_of
from gcpatch.networks import PAPER, Network, checkpoints, random
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import Options

SHARES = {"parity": 0.25, "steps": 0.45, "campaign": 0.15, "profile": 0.15}
HEADS = {
    "parity": (
        "network",
        "who",
        "logits",
        "activations",
        "grad_cam",
        "gradient",
        "top1_flips",
        "against",
    ),
    "steps": (
        *("network", "side", "batch", "variant", "precision", "image_steps_per_second"),
        *("seconds_per_step", "spread", "peak_memory_bytes", "compile_seconds"),
    ),
    "campaign": (
        *("network", "precision", "reach", "images", "fooled", "fooled_a_minute", "seconds"),
        *("steps_median", "steps_90"),
    ),
    "profile": ("network", "side", "batch", "phase", "ms", "of", "note"),
}
PATIENCE = 90  # seconds for a row of PyTorch's
FULL = ("vgg19_bn", "wide_resnet101_2", "resnext101_32x8d", "vgg19")  # the first is the first
COMPILERS = 8  # threads: programs that are compiled at a time


@dataclass
class Report:
    """The rows so far, on the disk after each."""

    out: Path

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.start = time.monotonic()
        (self.out / "rows.jsonl").write_text("")

    def add(self, stage: str, **row: Any) -> None:
        """Keeps and prints a row."""
        row = {"stage": stage, "at": round(time.monotonic() - self.start, 1)} | row
        self.rows.append(row)
        with (self.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        (self.out / "table.md").write_text("\n".join(self.tables()) + "\n")
        print(json.dumps(row), flush=True)

    def tables(self) -> Iterator[str]:
        """A Markdown table for each stage, and what failed or was left out."""
        for stage, head in HEADS.items():
            rows = [row for row in self.rows if row["stage"] == stage]
            if rows:
                yield from (f"## {stage}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|")
            for row in rows:
                if "error" not in row:
                    yield f"| {' | '.join(_cell(row.get(key)) for key in head)} |"
            yield ""
            for row in rows:
                if "error" in row:
                    named = {key: row[key] for key in head if key in row}
                    yield f"- no row of {named}: {row['error']}"
        yield from (f"- {row}" for row in self.rows if row["stage"] == "machine")

    @contextmanager
    def guarded(self, stage: str, **named: Any) -> Iterator[None]:
        """What fails inside is a row, and no end."""
        try:
            yield
        except Exception as error:
            self.add(stage, **named, error=f"{type(error).__name__}: {str(error)[:300]}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


class Torch:
    """PyTorch's process: it prepares tasks while we compute, and is timed when we wait."""

    def __init__(self, tasks: list[dict[str, Any]], folder: Path, log: Path):
        (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
        self.left = len(tasks)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.torch_worker", folder / "tasks.jsonl"],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            if line.startswith("{"):
                self.lines.put(line)
        self.lines.put(None)

    def answers(self, until: float | None = None) -> Iterator[dict[str, Any]]:
        """The rows of tasks that are ready, each timed now; of all that come until a deadline."""
        while self.left:
            try:
                line = self.lines.get(until is not None, until and max(until - time.monotonic(), 0))
            except queue.Empty:
                return
            if line is None:
                self.left = 0
                yield {"error": f"PyTorch's process ended with {self.process.wait()}"}
                return
            said = json.loads(line)
            if "ready" in said and self.process.stdin:
                self.process.stdin.write("go\n")
                self.process.stdin.flush()
                said = self._timed(said["ready"])
            self.left -= 1
            yield said["row"]

    def _timed(self, task: dict[str, Any]) -> dict[str, Any]:
        """What comes after `go`, within reason."""
        with suppress(queue.Empty):
            line = self.lines.get(timeout=PATIENCE)
            return json.loads(line or json.dumps({"row": task | {"error": "it ended"}}))
        self.left = 0
        self.process.kill()
        return {"row": task | {"error": f"no answer within {PATIENCE} s"}}

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()


@cache
def _network_of(name: str) -> Network:
    return random(name) if name in PAPER else checkpoints.load(name)


LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def network_of(name: str) -> Network:
    """A full-size network with random weights, a bundled mini, or a checkpoint's folder."""
    with LOCKS[name]:  # several threads may want it at once
        return _network_of(name)


# ---- parity


def inputs_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Images, tiles and targets on which a network is compared."""
    count, classes = 2 if options.small else 32, 1000
    if name in PAPER:  # not built here, where PyTorch's process waits
        images = images_for(count, 224)
    else:
        network = network_of(name)
        classes = len(network.categories)
        images = np.asarray(scenes.draw_batch(7, count).image, np.float32)
        if name == options.network:
            items = items_of(options, network)[:count]
            images = np.stack([item.read().pixels for item in items]).astype(np.float32) / 255
    side = images.shape[1]
    size = side * 2 // 7
    noise = np.random.default_rng(1)
    return {
        "images": images,
        "tiles": noise.random((len(images), size, size, 3), np.float32),
        "targets": noise.integers(0, classes, len(images)),
        "corner": np.asarray(Patch(size).corner(side, side)),
    }


def ours(name: str, given: dict[str, Any], precision: str, variant: str) -> dict[str, np.ndarray]:
    """Our values for all images; with a trunk in bfloat16 where the precision says so."""
    network, how = jax.device_put(network_of(name)), Attack(objective="hide")
    half = programs.halved(network) if precision == "trunk16" else None
    side, size = given["images"].shape[1], given["tiles"].shape[1]
    place = Patch(size).place(side, side)
    kept = None
    if variant == "incremental":
        kept = programs.reach_for(
            half or network, jax.ShapeDtypeStruct((side, side, 3), "f4"), size
        )

    @jax.jit
    def all_of(network, half, images, tiles, targets):
        def one(entry):
            image, tile, target = entry
            problem = make_problem(
                network, image, target, how, placement=place, key=jax.random.key(0)
            )
            if kept is not None:
                known = kept.program.precompute(network, image, kept.places)
                problem = problem._replace(memory=known.memory)
            reach = None if kept is None else kept.program
            forward = engine.forward_of(network, problem, None, reach)
            if half is not None:
                forward = programs.forward16(half, problem, None, None)
            return programs.values_of(network, problem, tile, how, forward)

        return jax.lax.map(one, (images, tiles, targets), batch_size=8)

    with jax.default_matmul_precision(programs.MATMUL.get(precision, "highest")):
        found = all_of(network, half, given["images"], given["tiles"], given["targets"])
    return jax.tree.map(np.asarray, found)


def errors(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Relative errors over the images, their median; and the images of another top class."""
    row: dict[str, Any] = {}
    for name, true in wanted.items():
        true, ours = (np.asarray(x, np.float64).reshape(len(true), -1) for x in (true, found[name]))
        size = np.linalg.norm(true, axis=1)
        relative = np.linalg.norm(ours - true, axis=1) / np.where(size == 0, 1, size)
        row[name] = float(np.median(relative[size > 0])) if (size > 0).any() else None
        row[f"{name}_max"] = float(relative.max())
    same = found["logits"].argmax(1) == wanted["logits"].argmax(1)
    return row | {"top1_flips": f"{int((~same).sum())} of {len(same)}"}


def parity(run: "Run") -> None:
    """Everything against PyTorch's float64 on the same machine."""
    kinds = [(kind, "full") for kind in ("highest", "tf32", "trunk16", "bfloat16")]
    kinds.append(("highest", "incremental"))
    waiting: dict[tuple[str, str, str], Future] = {
        (name, *kind): run.pool.submit(ours, name, given, *kind)
        for name, given in run.inputs.items()
        for kind in kinds
        if kind[0] != "bfloat16" or name == next(iter(run.inputs))  # the same as TF32, it seems
    }
    wanted: dict[str, dict[str, Any]] = {}
    for answer in run.torch.answers(run.until):
        name = str(answer.get("network"))
        if "error" in answer:
            run.report.add("parity", network=name, who="torch", error=answer["error"])
        else:
            with run.report.guarded("parity", network=name, who="torch"):
                files = {kind: dict(np.load(file)) for kind, file in answer["files"].items()}
                wanted[name] = files.pop("float64")
                for kind, found in files.items():
                    row = errors(found, wanted[name])
                    run.report.add("parity", network=name, who=f"torch {kind}", **row)
        if len(wanted) == len(run.inputs):
            break
    for (name, precision, variant), future in waiting.items():
        who = {"network": name, "who": f"gcpatch {variant} {precision}"}
        with run.report.guarded("parity", **who):
            found = future.result(timeout=max(run.until - time.monotonic(), 0))
            against = "torch float64" if name in wanted else "the first row here"
            row = errors(found, wanted.setdefault(name, found))
            run.report.add("parity", **who, **row, against=against)
    for future in waiting.values():
        future.cancel()
    wait([future for future in waiting.values() if not future.cancelled()], timeout=20)


# ---- speed


def groups_of(small: bool) -> list[list[Case]]:
    """What is compiled together and timed one after another, the most important first."""
    if small:
        case = Case("mini_vgg", 64, 4, "incremental", "tf32", 2)
        return [[case, replace_case(case, precision="trunk16"), replace_case(case, variant="full")]]
    bn = Case("vgg19_bn", 64, 256, "incremental", "tf32", 5)
    wide = replace_case(bn, network="wide_resnet101_2")
    grouped, plain = (replace_case(bn, network=name) for name in ("resnext101_32x8d", "vgg19"))

    def kinds(case: Case, *names: str) -> list[Case]:
        return [replace_case(case, precision=name) for name in names]

    return [
        [*kinds(bn, "tf32", "trunk16", "highest"), replace_case(bn, variant="full")],
        [*kinds(wide, "tf32", "trunk16"), replace_case(wide, variant="full")],
        [c for n in (512, 128, 64) for c in kinds(replace_case(bn, batch=n), "tf32", "trunk16")],
        [c for n in (bn, wide) for c in kinds(replace_case(n, side=32), "tf32", "trunk16")],
        [c for n in (grouped, plain) for c in kinds(n, "tf32", "trunk16")],
        [*kinds(wide, "highest"), *kinds(grouped, "highest"), *kinds(plain, "highest")],
        [replace_case(n, variant="full", precision="trunk16") for n in (bn, wide, grouped)],
        [c for n in (grouped, plain) for c in kinds(replace_case(n, side=32), "tf32", "trunk16")],
        [c for n in (64, 512) for c in kinds(replace_case(wide, batch=n), "tf32", "trunk16")],
    ]


def replace_case(case: Case, **changed: Any) -> Case:
    """Another case, but for these fields."""
    return case._replace(**changed)


def torch_tasks(small: bool) -> list[dict[str, Any]]:
    """PyTorch's rows: it evaluates in full, so that a patch's size hardly matters."""
    first = {"kind": "pace", "side": 64, "batch": 4 if small else 256, "repeats": 3}
    first["count"] = 1 if small else 5
    names = (
        ("mini_vgg",) if small else ("vgg19_bn", "wide_resnet101_2", "resnext101_32x8d", "vgg19")
    )
    return [
        first | {"network": name, "precision": precision, "compiled": compiled}
        for name in names
        for compiled in (False, True)
        for precision in (("tf32",) if small else ("tf32", "bfloat16"))
    ]


def timed(compiled: Compiled) -> dict[str, Any]:
    """A row: seconds of a step over all slots, and the memory of the program."""
    state, problems = compiled.batched()
    held = [state]

    def step() -> None:
        held[0], losses = compiled.program(*compiled.weights, held[0], problems, compiled.attack)
        jax.block_until_ready(losses)

    timing = clock(step, 3, compiled.case.steps)
    memory: Any = compiled.program.memory_analysis()
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "image_steps_per_second": compiled.case.batch / timing.step,
        "seconds_per_step": timing.step,
        "spread": timing.spread,
        "peak_memory_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "peak_memory_of_the_process": stats.get("peak_bytes_in_use"),
        "compile_seconds": compiled.seconds,
    }


def add_torch(run: "Run", until: float | None = None) -> None:
    """Rows of PyTorch's that are ready, or that become so until then."""
    for answer in run.torch.answers(until):
        if answer.pop("kind", "pace") == "pace":
            variant = "torch compiled" if answer.get("compiled") else "torch eager"
            run.report.add("steps", **({"variant": variant} | answer))


def steps(run: "Run") -> None:
    """Image-steps a second, of the compiled programs and of PyTorch."""
    for number, group in enumerate(groups_of(run.options.small)):
        add_torch(run)
        if time.monotonic() > run.until:
            run.report.add("steps", error="no time for this and what follows", groups=number)
            break
        waiting = [
            (case, run.pool.submit(programs.compile_case, network_of(case.network), case))
            for case in group
        ]
        wait([future for _, future in waiting])
        for case, future in waiting:
            with run.report.guarded("steps", **case._asdict()):
                run.report.add("steps", **case._asdict(), **timed(future.result()))
                if case.batch in (4, 256) and case.precision == "tf32" and case.side == 64:
                    run.compiled[case.network, case.variant] = future.result()
        if number == 1 or run.options.small:
            streams(run, group[0])
    add_torch(run, run.until)


def reaches() -> list[dict[str, Any]]:
    """Settings of `Attack` that name a reach: exact, and near and a margin where there are such."""
    names = {field.name for field in fields(Attack)}
    found: list[dict[str, Any]] = [{}]
    for value in ("near", 2) if "reach" in names else ():
        with suppress(UserError):
            Attack(reach=value)
            found.append({"reach": value})
    return found


def streams(run: "Run", case: Case) -> None:
    """Steps as attacks take them, through slots, with what the host does and with refreshes."""
    network = network_of(case.network)
    side, chunks = side_of(network), 3 if run.options.small else 5
    for setting in reaches():
        named = case._asdict() | {"variant": f"stream {setting.get('reach', 'exact')}"}
        with run.report.guarded("steps", **named):
            how = replace(programs.attack_for(chunks * slots.CHUNK), **setting)
            place = Patch(case.side).place(side, side)
            stamps = [(time.perf_counter(), 0)]
            problem = programs._problem(network, images_for(1, side)[0], how, placement=place)
            for _ in slots.stream(
                network,
                [problem] * case.batch,
                place.shape,
                how,
                case.batch,
                partial(_stamp, stamps),
                programs.MATMUL[case.precision],
                place.corner,
            ):
                pass
            times, counts = np.transpose(stamps)
            seconds, taken = np.diff(times)[1:], counts[2:]
            pace = float(np.median(taken / seconds))
            run.report.add(
                "steps",
                **named,
                image_steps_per_second=pace,
                mean_image_steps_per_second=float(taken.sum() / seconds.sum()),
                seconds_per_step=case.batch / pace,
                compile_seconds=float(times[1] - times[0]),
            )


def _stamp(stamps: list[tuple[float, int]], count: int) -> None:
    stamps.append((time.perf_counter(), count))


# ---- a campaign


def items_of(options: argparse.Namespace, network: Network) -> list[sources.Item]:
    """The photographs with their labels."""
    found = sources.find([options.images], network.preprocessing.size, "stretch", options.out)
    return hints.labelled(found.items, network.categories)[0]


def campaigns(run: "Run") -> None:
    """Attacks photographs to success, each with several targets; the verdict is the PNG's."""
    options = run.options
    if not (options.network and options.images):
        return
    network = network_of(options.network)
    items, classes = items_of(options, network), network.categories
    times, batch = (1, 4) if options.small else (4, 64)
    items = items[:4] if options.small else items
    several = [
        item._replace(
            id=f"{item.id}-{k}",
            target=classes[(classes.index(str(item.label)) + 1 + 2 * k) % len(classes)],
        )
        for k in range(times)
        for item in items
    ]
    for setting in reaches():
        for precision in ("tf32", "float32"):
            named = {"network": network.name, "precision": precision, **setting}
            if time.monotonic() > run.until:
                run.report.add("campaign", **named, error="no time for this")
                continue
            with run.report.guarded("campaign", **named), tempfile.TemporaryDirectory() as folder:
                how = Attack(objective="hide", steps=60 if options.small else 200, **setting)
                attack = partial(_attack, network, precision, batch, run.until)
                attack(several[:batch], replace(how, steps=slots.CHUNK), Path(folder, "first"))
                start = time.perf_counter()
                records = attack(several, how, Path(folder, "run"))
                seconds = time.perf_counter() - start
                run.report.add("campaign", **named, seconds=seconds, **_success(records, seconds))


def _attack(network, precision, batch, until, items, how, folder) -> list[dict[str, Any]]:
    journal = Journal(folder, {"settings": {"attack": how.describe()}})
    records = []
    for record in campaign.run(
        journal,
        network,
        items,
        Patch(64),
        how,
        options=Options(precision=precision),
        batch=batch,
        write_artifacts=False,
    ):
        records.append(record)
        if time.monotonic() > until:
            break
    return records


def _success(records: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    taken = [record["steps"] for record in records if record["steps"]]
    fooled = sum(bool(record["fooled_both"]) for record in records)
    return {
        "images": len(records),
        "errors": sum(bool(record["error"]) for record in records),
        "fooled": fooled,
        "fooled_a_minute": 60 * fooled / seconds,
        "steps_median": float(np.median(taken)) if taken else None,
        "steps_90": float(np.quantile(taken, 0.9)) if taken else None,
    }


# ---- profile


def profile(run: "Run") -> None:
    """Where the time goes: phases in milliseconds, and the heaviest instructions of a step."""
    for (_, variant), compiled in run.compiled.items():
        named = _named(compiled)
        with run.report.guarded("profile", **named, phase=f"{variant}: program"):
            for row in heaviest(compiled):
                run.report.add("profile", **named, **row)
    for (name, variant), compiled in run.compiled.items():
        named = _named(compiled)
        for phase, measure in phases(compiled, network_of(name)):
            if time.monotonic() > run.until:
                run.report.add("profile", **named, error="no time for this and what follows")
                return
            with run.report.guarded("profile", **named, phase=f"{variant}: {phase}"):
                run.report.add("profile", **named, phase=f"{variant}: {phase}", **measure())


def _named(compiled: Compiled) -> dict[str, Any]:
    case = compiled.case
    return {"network": case.network, "side": case.side, "batch": case.batch}


# ---- all of it


@dataclass
class Run:
    """What the stages share; `until` is the end of the present one's time."""

    options: argparse.Namespace
    report: Report
    pool: ThreadPoolExecutor
    torch: Torch
    inputs: dict[str, Any]
    compiled: dict[Any, Compiled]
    until: float = math.inf


STAGES: dict[str, Callable[[Run], None]] = {
    "parity": parity,
    "steps": steps,
    "campaign": campaigns,
    "profile": profile,
}


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default=",".join(STAGES), help="of " + ", ".join(STAGES))
    parser.add_argument("--minutes", type=float, default=5.0, help="for all stages (5)")
    parser.add_argument("--network", help="a checkpoint's folder or an alias")
    parser.add_argument("--images", help="a manifest of labelled photographs")
    parser.add_argument("--small", action="store_true", help="a trial with a mini, on any machine")
    options = parser.parse_args()
    report = Report(options.out)
    stages = options.stages.split(",")
    start, share = time.monotonic(), sum(SHARES[name] for name in stages)
    with tempfile.TemporaryDirectory() as folder:
        names = ["mini_wide_resnet", "mini_vgg"]
        names = names if options.small else [*FULL[:2], names[0], *FULL[2:]]
        names = [options.network, *names] if options.network and options.images else names
        inputs: dict[str, Any] = {}
        tasks = torch_tasks(options.small) if "steps" in stages else []
        for name in reversed(names) if "parity" in stages else ():
            with report.guarded("parity", network=name, who="inputs"):
                file = Path(folder, f"{len(inputs)}.npz")
                given = inputs_of(name, options)
                np.savez(file, **given)
                inputs = {name: given} | inputs
                tasks = [{"kind": "values", "network": name, "inputs": str(file)}, *tasks]
        torch = Torch(tasks, Path(folder), options.out / "torch.log")
        pool = ThreadPoolExecutor(COMPILERS)
        run = Run(options, report, pool, torch, inputs, {})
        with report.guarded("machine"):
            report.add("machine", **machine())
        for name in stages:
            used = sum(SHARES[n] for n in stages[: stages.index(name) + 1]) / share
            run.until = start + used * options.minutes * 60
            with report.guarded(name):
                STAGES[name](run)
            report.add("time", name=name, seconds=time.monotonic() - start)
        torch.close()
        os._exit(0)  # whatever still compiles has no reader


if __name__ == "__main__":
    main()
