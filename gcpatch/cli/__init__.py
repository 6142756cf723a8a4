"""The command line. Heavy imports wait until a verb needs them, so that `--help` is quick."""

import argparse
import itertools
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError

USAGE, FAILED, INTERRUPTED = 2, 1, 130
IMAGE_SIZE = 224
DEMO_SCENES, DEMO_STEPS, DEMO_SEED = 4, 300, 7
MOST_ON_CPU, MOST_ON_ACCELERATOR = 8, 512  # images at a time; more is no faster
MOST_SHOWN = 100  # records in the table on the terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0 done, 1 something failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        _cache_programs()
        return options.run(options)
    except UserError as error:
        print(f"gcpatch {options.verb}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"\ngcpatch {options.verb}: stopped; {options.again}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except OSError as error:
        print(f"gcpatch {options.verb}: {error}; {options.again}", file=sys.stderr)
        return FAILED


def _cache_programs() -> None:
    """Has JAX keep compiled programs beside the converted weights, unless the user says where."""
    from gcpatch.files import programs

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := programs()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gcpatch",
        description="Adversarial patches that fool an image classifier and its Grad-CAM.",
        epilog="gcpatch VERB --help shows a verb's options and an example.",
    )
    parser.set_defaults(again="run the same command again")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(
            name, help=text, description=text, epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        found.set_defaults(run=run)
        return found

    demo = verb(
        "demo", _demo, "attack bundled scenes with bundled networks, offline, in a minute",
        "gcpatch demo --out demo",
    )  # fmt: skip
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("gcpatch-demo"),
        metavar="DIR",
        help="the run's folder (default gcpatch-demo)",
    )
    _json(demo)

    attack = verb(
        "attack", _attack, "make adversarial patches for images",
        "gcpatch attack photos/ --model vgg19_bn --target 'tabby' --objective hide --out runs/hide",
    )  # fmt: skip
    _images_and_model(attack)
    attack.set_defaults(again="go on with the same command and --resume")
    attack.add_argument(
        "--target",
        default="random",
        metavar="NAME|ID|random|least-likely|runner-up",
        help="the class that each image shall be taken for, unless a manifest says (default random)",
    )
    attack.add_argument(
        "--preset",
        metavar="NAME",
        help="settings of the paper (paper-64, paper-32) or of [16] (subramanya); other options change them",
    )
    attack.add_argument(
        "--objective",
        metavar="NAME|MODULE:FUNCTION",
        help="hide (default), highlight, classify, another name in gcpatch/losses.py, or a function of gcpatch.Evidence",
    )
    attack.add_argument("--size", type=int, metavar="PIXELS", help="the patch's side (default 64)")
    attack.add_argument(
        "--ratio",
        type=float,
        metavar="P",
        help="the patch's share in its pixels, over 0 to 1 (default 1)",
    )
    attack.add_argument(
        "--position",
        metavar="CORNER|ROW,COL",
        help="top-right (default), top-left, bottom-left, bottom-right, or the top left pixel",
    )
    regions = attack.add_mutually_exclusive_group()
    regions.add_argument(
        "--frame", type=int, metavar="PIXELS", help="instead of a patch, a frame of this width"
    )
    regions.add_argument(
        "--mask", metavar="FILE.png", help="instead of a patch, wherever this picture is white"
    )
    regions.add_argument(
        "--linf",
        type=int,
        metavar="LEVELS",
        help="instead of a patch, the whole image, each pixel by at most so many 8-bit levels",
    )
    attack.add_argument(
        "--steps", type=int, metavar="N", help="the most steps for an image (default 1000)"
    )
    attack.add_argument("--optimizer", metavar="NAME", help="adam (default), sign, sgd or momentum")
    attack.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="the optimiser's step in normalised units (default: one for each optimiser)",
    )
    attack.add_argument(
        "--ce-weight",
        type=float,
        metavar="ALPHA",
        help="the weight of the cross-entropy (paper, eq. 5)",
    )
    attack.add_argument(
        "--init",
        metavar="START",
        help="the patch at first: mean (default), image, random, or clean",
    )
    attack.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    attack.add_argument(
        "--batch",
        default="auto",
        metavar="N|auto",
        help="images optimised at a time; auto (default): 512, on a CPU 8; halved where memory runs out",
    )
    attack.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="of the optimisation on accelerators: float32 (default), tf32 or bfloat16; verdicts are always in float32",
    )
    attack.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    attack.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often what is under way is kept for --resume (default 60)",
    )
    attack.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="take only the I-th of N equal parts of the images",
    )
    attack.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,N,I",
        help="be one process of N under jax.distributed, which finds Slurm, MPI, Kubernetes and TPU clusters by itself; each takes its part of the images into DIR/part-I-of-N",
    )
    attack.add_argument(
        "--log-json", action="store_true", help="JSON lines on standard error instead of a bar"
    )
    attack.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write scalars for TensorBoard"
    )
    _json(attack)

    explain = verb(
        "explain", _explain, "draw the explanation of each image's class",
        "gcpatch explain photos/ --model vgg19_bn --label top --out maps",
    )  # fmt: skip
    _images_and_model(explain)
    explain.add_argument(
        "--method",
        default="grad-cam",
        metavar="NAME",
        help="grad-cam (default), hirescam, grad-cam++, xgrad-cam, layercam, eigen-cam, input-gradient, gradient-x-input, smoothgrad, integrated-gradients, guided-backprop, occlusion; pictures show what is over 0, heat.npy is the map itself",
    )
    explain.add_argument(
        "--label",
        default="top",
        metavar="NAME|ID|top",
        help="the class to explain (default: the image's top class)",
    )
    _json(explain)

    convert = verb(
        "convert", _convert, "turn torchvision weights into a checkpoint, or back",
        "gcpatch convert vgg19_bn --weights vgg19_bn-c79401a0.pth",
    )  # fmt: skip
    convert.add_argument("name", metavar="NAME", help="a network; `gcpatch models` lists them")
    convert.add_argument(
        "--weights",
        metavar="ENUM|FILE.pth",
        help="torchvision's name of the weights (default IMAGENET1K_V1, downloaded), a state_dict, or random; with --to-torch a checkpoint folder",
    )
    convert.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the user's cache, where `--model NAME` finds it)",
    )
    convert.add_argument(
        "--to-torch",
        action="store_true",
        help="write the checkpoint back as a state_dict, NAME.pth",
    )

    verify = verb(
        "verify", _verify, "compare networks, or a finished run, with PyTorch",
        "gcpatch verify all --weights random --precision float64",
    )  # fmt: skip
    verify.add_argument(
        "names",
        nargs="*",
        metavar="NAME|all",
        help="networks; all: the paper's four and the four minis",
    )
    verify.add_argument(
        "--weights",
        metavar="ENUM|FILE.pth|random",
        help="torchvision's name of the weights, a state_dict, or seeded random weights (default: the converted checkpoint beside the weights that it was made of)",
    )
    verify.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="a folder of images (default: scenes and random pixels)",
    )
    verify.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="float32 (default) or float64; on accelerators also tf32 or bfloat16, beside PyTorch's float32",
    )
    verify.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps of each optimiser (default 10, for minis 30; 0: none); sign and adam for large networks",
    )
    verify.add_argument(
        "--run",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="instead of networks, a run whose adversarial images PyTorch shall judge",
    )
    _json(verify)

    models = verb("models", _models, "list the networks and their weights", "gcpatch models")
    _json(models)

    bench = verb(
        "bench", _bench, "measure throughput here, beside PyTorch where it is installed",
        "gcpatch bench --networks vgg19_bn,resnext101_32x8d --sizes 64,32 --batches 8",
    )  # fmt: skip
    for name, default, text in (
        ("networks", "vgg19_bn", "networks, with random weights"),
        ("sizes", "64", "the patch's sides in pixels"),
        ("batches", "8", "images at a time"),
    ):
        bench.add_argument(
            f"--{name}", default=default, metavar="A,B,...", help=f"{text} (default {default})"
        )
    bench.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="the median of N counts (default 5)"
    )
    _json(bench)

    transfer = verb(
        "transfer", _transfer, "show a run's adversarial images to other networks and explainers",
        "gcpatch transfer runs/hide --models mini_vgg,mini_resnext --methods grad-cam,layercam --out runs/transfer",
    )  # fmt: skip
    transfer.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders that `attack` wrote"
    )
    transfer.add_argument(
        "--models",
        required=True,
        metavar="NAME,...",
        help="the networks to show them to; they must know the run's targets by name",
    )
    transfer.add_argument(
        "--methods",
        default="grad-cam",
        metavar="NAME,...",
        help="the explainers, as `explain --method` names them (default grad-cam)",
    )
    transfer.add_argument(
        "--defences",
        metavar="NAME,...",
        help="what the images go through first, beside nothing: jpeg-QUALITY, blur-SIGMA, bits-N, crop-PERCENT",
    )
    transfer.add_argument(
        "--images", type=int, metavar="N", help="only the first N images of each run"
    )
    transfer.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write transfer.jsonl, transfer.csv and transfer.png",
    )
    _json(transfer)

    report = verb(
        "report", _report, "(re)build the summary and report.html of a run, or of several as one",
        "gcpatch report runs/hide --export hide.csv\n"
        "  gcpatch report host-a/hide host-b/hide --out runs/hide-all",
    )  # fmt: skip
    report.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a run's folder, or one with the parts of a campaign in folders part-*",
    )
    report.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: DIR, if it is one)"
    )
    report.add_argument(
        "--export", type=Path, metavar="FILE", help="all records as .csv or .parquet"
    )
    return parser


def _images_and_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGES",
        help="image files, folders, globs, manifests (.csv, .jsonl) or archives (.tar)",
    )  # fmt: skip
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a network; `gcpatch models` lists them"
    )
    parser.add_argument(
        "--weights",
        metavar="random|DIR",
        help="seeded random weights, or a checkpoint's folder (default: what `gcpatch convert` made)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write to"
    )
    parser.add_argument(
        "--resize-mode",
        default="stretch",
        metavar="MODE",
        help="stretch (default; as the paper) or crop (torchvision's resize and centre crop)",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def _demo(options: argparse.Namespace) -> int:
    import shutil

    from gcpatch.attacks.regions import Patch
    from gcpatch.attacks.settings import Attack
    from gcpatch.data import sources
    from gcpatch.networks import MINIS, checkpoints
    from gcpatch.report import page
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.journal import Journal, is_run_of

    patch, attack = Patch(), Attack(objective="hide", steps=DEMO_STEPS)
    networks = [checkpoints.load(name) for name in MINIS]
    settings = {"model": "the bundled minis", "images": f"scenes of seed {DEMO_SEED}"}
    described = campaign.describe(networks, patch, attack, settings, command=_command())
    if is_run_of(options.out, described):  # an older demo, which nobody misses
        shutil.rmtree(options.out)
    journal = Journal(options.out, described)
    records: list[dict[str, Any]] = []
    with progress.ConsoleProgress(DEMO_SCENES * len(networks)) as watch:
        for network in networks:
            items = [
                item._replace(id=f"{network.name}-{item.id}")
                for item in sources.from_scenes(DEMO_SEED, DEMO_SCENES, IMAGE_SIZE)
            ]
            records += campaign.run(
                journal, network, items, patch, attack, batch=DEMO_SCENES, watch=watch
            )
    journal.close()
    written = page.write_report(options.out)
    _print_records(records, options.json)
    print(f"pictures, records and the report: {written}", file=sys.stderr)
    fooled = {record["model"] for record in records if record["fooled_both"]}
    return 0 if len(fooled) == len(networks) else FAILED


def _command() -> str:
    return shlex.join(["gcpatch", *sys.argv[1:]])


def _attack(options: argparse.Namespace) -> int:
    import jax

    from gcpatch.data import hints, labels, sources
    from gcpatch.data.images import RESIZE_MODES
    from gcpatch.networks import checkpoints
    from gcpatch.report import page
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.journal import Journal

    _choose("resize mode", options.resize_mode, RESIZE_MODES)
    patch, attack = _settings(options)
    patch.place(IMAGE_SIZE, IMAGE_SIZE)
    if not options.checkpoint_every > 0:
        raise UserError(f"--checkpoint-every is {options.checkpoint_every}; it must be over 0")
    (part, parts), out = _part(options)
    batch = _batch(options.batch)
    found = sources.find(options.images, IMAGE_SIZE, options.resize_mode, options.out)
    network = checkpoints.load(options.model, options.weights, seed=options.seed)
    labels.check(options.target, network.categories)
    items, notes = hints.labelled(found.items, network.categories)
    items = items[part - 1 :: parts]
    settings = {
        "model": network.name, "target": options.target, "seed": options.seed,
        "resize_mode": options.resize_mode, "precision": options.precision,
        "shard": f"{part}/{parts}",
    }  # fmt: skip
    described = campaign.describe([network], patch, attack, settings, command=_command())
    journal = Journal(out, described, resume=options.resume)
    done, devices = sum(item.id in journal.done for item in items), jax.local_devices()
    shown: list[dict[str, Any]] = []
    with (
        progress.ConsoleProgress(
            len(items), done, log=options.log_json, tensorboard=options.tensorboard
        ) as watch,
        watch.signals(),
    ):
        for note in found.notes + notes:
            watch.note(note)
        for record in campaign.run(
            journal, network, items, patch, attack, target=options.target, seed=options.seed,
            batch=min(batch, -(-len(items) // len(devices))), precision=options.precision,
            devices=devices if len(devices) > 1 else None, every=options.checkpoint_every,
            watch=watch,
        ):  # fmt: skip
            shown += [record] if len(shown) < MOST_SHOWN else []
    if watch.stopped:
        print(f"gcpatch attack: stopped; {options.again}", file=sys.stderr)
        return 128 + watch.stopped
    summary = journal.close()
    written = page.write_report(out)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        _print_records(shown, False)
        _print_summary(summary)
        print(f"report: {written}")
    return FAILED if summary["failed"] else 0


def _part(options: argparse.Namespace) -> tuple[tuple[int, int], Path]:
    """Which part of the images this process takes, (I, N), and the folder for it."""
    import jax

    if options.distributed is None:
        return _shard(options.shard), options.out
    if options.shard != "1/1":
        raise UserError("--distributed gives each process its part; leave out --shard")
    _join(options.distributed)
    part, parts = jax.process_index() + 1, jax.process_count()
    return (part, parts), options.out / f"part-{part}-of-{parts}"


def _join(text: str) -> None:
    """Makes this process one of several, in the cluster that JAX finds or at an address."""
    import jax

    address, _, numbers = text.partition(",")
    count, _, index = numbers.partition(",")
    if text and not (address and count.isdecimal() and index.isdecimal()):
        raise UserError(f"--distributed {text!r} is not HOST:PORT,N,I, such as 10.0.0.1:1234,8,0")
    try:
        if text:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"jax.distributed cannot start ({reason}); give it --distributed HOST:PORT,N,I"
        ) from None


def _settings(options: argparse.Namespace):
    """The patch and the attack that the options ask for, on top of a preset."""
    import dataclasses

    from gcpatch.attacks.presets import PRESETS
    from gcpatch.attacks.regions import Patch
    from gcpatch.attacks.settings import OPTIMIZERS, Attack

    if options.preset:
        _choose("preset", options.preset, PRESETS)
    patch, attack = PRESETS[options.preset] if options.preset else (Patch(), Attack())
    _choose("precision", options.precision, ("float32", "tf32", "bfloat16"))
    if options.optimizer:
        _choose("optimizer", options.optimizer, OPTIMIZERS)
        attack = dataclasses.replace(attack, optimizer=options.optimizer, learning_rate=None)
    given = {
        field: value
        for field in ("steps", "learning_rate", "ce_weight", "init")
        if (value := getattr(options, field)) is not None
    }
    if options.objective:
        given["objective"] = _objective(options.objective)
    return _region(options, patch), dataclasses.replace(attack, **given)


def _region(options: argparse.Namespace, patch):
    """Where the perturbation lies: `patch`, changed as the options ask, or what takes its place."""
    import dataclasses

    from gcpatch.attacks.regions import Bounded, Frame, Mask

    given = {
        field: value
        for field in ("size", "position", "ratio")
        if (value := getattr(options, field)) is not None
    }
    for option, kind, known in (
        ("frame", Frame, ("ratio",)), ("mask", Mask, ("ratio",)), ("linf", Bounded, ()),
    ):  # fmt: skip
        if (value := getattr(options, option)) is None:
            continue
        for field in given.keys() - set(known):
            raise UserError(f"--{field} and --{option} exclude each other")
        return kind(value, **given)
    if options.position:
        given["position"] = _position(options.position)
    return dataclasses.replace(patch, **given)


def _objective(text: str):
    """An objective by name, or the function that MODULE:FUNCTION names."""
    import importlib

    if ":" not in text:
        return text
    module, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"there is no objective {text!r}: {error}") from None


def _position(text: str) -> str | tuple[int, int]:
    row, comma, column = text.partition(",")
    if not comma:
        return text
    try:
        return int(row), int(column)
    except ValueError:
        raise UserError(f"the position {text!r} is not ROW,COLUMN in whole numbers") from None


def _batch(text: str) -> int:
    """The slots to begin with; a device with less memory halves them."""
    import jax

    if text == "auto":
        return MOST_ON_CPU if jax.default_backend() == "cpu" else MOST_ON_ACCELERATOR
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"the batch is {text}; it must be auto or at least 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"the shard {text!r} is not I/N with 1 <= I <= N")
    return int(index), int(count)


def _explain(options: argparse.Namespace) -> int:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gcpatch.data import images, labels, sources
    from gcpatch.explainers import registry
    from gcpatch.networks import checkpoints
    from gcpatch.report import figures

    _choose("method", options.method, registry.METHODS)
    _choose("resize mode", options.resize_mode, images.RESIZE_MODES)
    items, notes = sources.find(options.images, IMAGE_SIZE, options.resize_mode, options.out)
    network = checkpoints.load(options.model, options.weights)
    label = -1 if options.label == "top" else labels.find(options.label, network.categories)
    classify = jax.jit(lambda network, image: network(image))
    explain = registry.compiled(options.method)
    rows, failed = [], False
    for note in notes:
        print(f"gcpatch explain: {note}", file=sys.stderr)
    for item in _track(items):
        row: dict[str, Any] = {"id": item.id, "source": item.source, "error": None}
        rows.append(row)
        try:
            picture = item.read().pixels
        except UserError as error:
            row["error"], failed = item.blame(error), True
            continue
        image = jnp.asarray(picture, jnp.float32) / 255
        logits = classify(network, image)
        found = int(logits.argmax()) if label < 0 else label
        heat = explain(network, image, jnp.asarray(found))
        odds = np.asarray(jnp.exp(logits - jnp.max(logits)))
        row |= {
            "label": {"id": found, "name": network.categories[found]},
            "probability": float(odds[found] / odds.sum()),
        }
        values = figures.upsample(np.asarray(heat), IMAGE_SIZE)
        folder = options.out / item.id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            images.write_png(folder / "heatmap.png", figures.jet(values))
            images.write_png(folder / "overlay.png", figures.overlay(picture, values))
            np.save(folder / "heat.npy", np.asarray(heat))
        except OSError as error:
            raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _table(("image", "class", "probability"), [
            (row["id"], row["error"] or row["label"]["name"], "" if row["error"] else f"{row['probability']:.3f}")
            for row in rows
        ])  # fmt: skip
        print(f"heatmaps and overlays: {options.out}")
    return FAILED if failed else 0


def _convert(options: argparse.Namespace) -> int:
    from gcpatch.networks import checkpoints, create, random

    create(options.name)
    if options.to_torch:
        from convert import torchvision

        network = checkpoints.load(options.name, options.weights)
        path = (options.out or Path()) / f"{options.name}.pth"
        torchvision.save_torch(network, path)
        print(f"{options.name} as a state_dict: {path}")
        return 0
    if options.weights == "random":
        network, source, versions = random(options.name), "random seed 0", None
    else:
        from convert import torchvision

        weights = options.weights or "IMAGENET1K_V1"
        state, categories, source = torchvision.load_weights(options.name, weights)
        network = torchvision.from_torch(state, options.name, categories)
        versions = torchvision.VERSIONS
    folder = options.out or checkpoints.home() / options.name
    checkpoints.save(network, folder, source, versions)
    print(f"{options.name} from {source}: {folder}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    if bool(options.names) == bool(options.folder):
        raise UserError("name networks (or all), or a finished run with --run DIR")
    from convert import verify

    rows: list[Any] = []
    more: dict[str, Any] = {}
    if options.folder:
        rows, images, differing = verify.verify_run(options.folder, options.weights)
        more = {"images": images, "differing": differing}
        if not options.json:
            _print_rows(rows)
            print(f"PyTorch agrees on {images - len(differing)} of {images} images")
    for name in verify.names_of(options.names, options.weights):
        found = verify.verify(
            name, weights=options.weights, folder=options.images, precision=options.precision,
            steps=options.steps,
        )  # fmt: skip
        rows += found
        if not options.json:
            _print_rows(found)
    firsts: dict[str, Any] = {}
    for row in rows:
        if not row.passed:
            firsts.setdefault(row.network, row)
    for name, row in firsts.items():
        print(
            f"{name} parts from PyTorch at {row.quantity}: relative error {row.relative:.1e}, "
            f"tolerance {row.tolerance:.0e}",
            file=sys.stderr,
        )
    for identity in more.get("differing", ()):
        print(f"PyTorch differs on {identity}", file=sys.stderr)
    if options.json:
        first = next(iter(firsts.values()), None)
        print(json.dumps({
            "passed": first is None, "rows": [_finite(row) for row in rows],
            "first_difference": first and _finite(first), **more,
        }, indent=1))  # fmt: skip
    return FAILED if firsts else 0


def _finite(row: Any) -> dict[str, Any]:
    """A row of `verify` for JSON, which has no infinity."""
    return {key: None if value == float("inf") else value for key, value in row._asdict().items()}


def _print_rows(rows: Sequence[Any]) -> None:
    _table(
        ("network", "quantity", "max abs", "relative", "tolerance", "passed"),
        [
            (row.network, row.quantity, f"{row.max_abs:.1e}", f"{row.relative:.1e}",
             f"{row.tolerance:.0e}", "yes" if row.passed else "NO")
            for row in rows
        ],
    )  # fmt: skip


def _bench(options: argparse.Namespace) -> int:
    from gcpatch.attacks.regions import Patch
    from gcpatch.evaluation import bench
    from gcpatch.networks import create, random

    names = options.networks.split(",")
    sizes, batches = _numbers("sizes", options.sizes), _numbers("batches", options.batches)
    for name in names:
        create(name)
    for size in sizes:
        Patch(size).corner(IMAGE_SIZE, IMAGE_SIZE)
    if options.repeats < 1:
        raise UserError(f"repeats is {options.repeats}; it must be at least 1")
    measures = _measures()
    tasks = list(itertools.product(names, sizes, batches, measures))
    rows = [
        measures[variant](random(name), size, batch, variant, options.repeats)._asdict()
        for name, size, batch, variant in _track(tasks, " measurements")
    ]
    if options.json:
        print(json.dumps({"machine": bench.machine(), "rows": rows}, indent=1))
        return 0
    _table(
        ("network", "patch", "batch", "variant", "image-steps/s", "s/step", "memory", "compile"),
        [
            (row["network"], str(row["size"]), str(row["batch"]), row["variant"],
             f"{row['image_steps_per_second']:.2f}", f"{row['seconds_per_step']:.4f}",
             f"{row['peak_memory_bytes'] / 1e9:.2f} GB", f"{row['compile_seconds']:.1f} s")
            for row in rows
        ],
    )  # fmt: skip
    return 0


def _measures() -> dict[str, Any]:
    """What measures each variant: PyTorch where it is installed, and gcpatch."""
    from gcpatch.evaluation import bench

    measures = dict.fromkeys(bench.VARIANTS, bench.measure)
    try:
        from convert import bench as convert_bench
    except (ImportError, UserError) as error:
        print(f"without PyTorch: {error}", file=sys.stderr)
        return measures
    return dict.fromkeys(convert_bench.VARIANTS, convert_bench.measure) | measures


def _numbers(what: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{what} is {text!r}; it must be whole numbers from 1, with commas")
    return list(map(int, parts))


def _models(options: argparse.Namespace) -> int:
    import numpy as np

    from gcpatch.networks import MINIS, NAMES, checkpoints, create, parameters

    installed = checkpoints.installed()
    rows: list[dict[str, Any]] = []
    for name in _track(NAMES, " networks"):
        network = create(name)
        trained = [
            leaf for key, leaf in parameters(network).items() if not key.endswith((".mean", ".var"))
        ]
        bundled = "bundled" if name in MINIS else None
        rows.append({
            "name": name,
            "parameters": sum(int(np.prod(leaf.shape)) for leaf in trained),
            "target_layer": network.target_layer,
            "classes": len(network.categories),
            "weights": str(checkpoints.home() / name) if name in installed else bundled,
        })  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _table(("network", "parameters", "target layer", "classes", "weights"), [
            (row["name"], f"{row['parameters']:,}", row["target_layer"], str(row["classes"]),
             row["weights"] or f"gcpatch convert {row['name']}")
            for row in rows
        ])  # fmt: skip
    return 0


def _report(options: argparse.Namespace) -> int:
    from gcpatch.report import export, page, records, summary

    folder = options.out or (options.folders[0] if len(options.folders) == 1 else None)
    if options.export:
        export.check(options.export)
    elif folder is None:
        raise UserError("several runs as one need --out FOLDER for their page, or --export FILE")
    if folder and [folder] != options.folders and (folder / "run.json").exists():
        raise UserError(f"{folder} holds a run of its own; choose another folder for --out")
    left_out: list[str] = []
    run = records.gather(options.folders, left_out.append)
    if options.export:
        export.write_export(run.records, options.export)
        print(options.export)
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            summary.write_summary(folder, run.records)
            print(page.write_page(run, folder, left_out.append))
        except OSError as error:
            raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if left_out:
        print(f"gcpatch report: {records.notes(left_out)}", file=sys.stderr)
    return 0


def _transfer(options: argparse.Namespace) -> int:
    from gcpatch.evaluation import transfer
    from gcpatch.explainers import registry
    from gcpatch.networks import checkpoints
    from gcpatch.report import matrix, records

    explainers = options.methods.split(",")
    for method in explainers:
        _choose("method", method, registry.METHODS)
    if options.images is not None and options.images < 1:
        raise UserError(f"--images is {options.images}; it must be at least 1")
    found = [checkpoints.load(name) for name in options.models.split(",")]
    defences = [transfer.NONE, *(options.defences.split(",") if options.defences else ())]
    attacked = [
        image for folder in options.runs for image in records.attacked(folder, options.images)
    ]
    rows = list(
        _track(
            transfer.transfer(attacked, found, explainers, defences),
            unit=" maps",
        )
    )
    if not rows:
        raise UserError("the runs have no adversarial images")
    means = transfer.summarise(rows)
    if options.out:
        try:
            matrix.write(options.out, rows, means)
        except OSError as error:
            raise UserError(f"cannot write to the folder {options.out}: {error.strerror}") from None
    if options.json:
        print(json.dumps(means, indent=2))
    else:
        _table(matrix.HEAD, [matrix.line(row) for row in means])
    return 0


def _track(items: Iterable[Any], unit: str = " images"):
    from tqdm import tqdm

    return tqdm(items, unit=unit, delay=2, disable=None)  # None: where there is no terminal


def _print_records(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(records, indent=2))
        return

    def mark(value: bool | None) -> str:
        return "-" if value is None else "yes" if value else "no"

    _table(
        ("image", "clean", "attacked", "class", "map", "energy", "steps"),
        [
            (record["id"], record["error"] or record["skipped"], "", "", "", "", "")
            if record["error"] or record["skipped"]
            else (
                record["id"],
                f"{record['clean']['name']} {record['clean']['probability']:.2f}",
                f"{record['adversarial']['name']} {record['png']['probability']:.2f}",
                mark(record["fooled_class"]),
                mark(record["fooled_explanation"]),
                f"{record['energy_clean']:.2f} -> {record['energy_adversarial']:.2f}",
                str(record["steps"]),
            )
            for record in records
        ],
    )


def _print_summary(summary: dict[str, Any]) -> None:
    rates = [
        f"{name} {summary[key]:.1%}"
        for key, name in (
            ("fooled_class", "class"), ("fooled_explanation", "explanation"), ("fooled_both", "both"),
        )
        if summary[key] is not None
    ]  # fmt: skip
    skipped = f", {summary['skipped']} skipped" if summary["skipped"] else ""
    print(
        f"{summary['images']} images, {summary['failed']} failed{skipped}; "
        f"fooled: {', '.join(rates)}"
    )
    if summary["accuracy_clean"] is not None:
        print(
            f"accuracy: {summary['accuracy_clean']:.1%} clean, "
            f"{summary['accuracy_robust']:.1%} attacked"
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _choose(what: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise UserError(f"there is no {what} {value!r}; choose one of {', '.join(choices)}")
