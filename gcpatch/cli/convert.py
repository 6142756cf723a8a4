"""`gcpatch convert`: PyTorch's weights into a checkpoint, and back."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.identity import add_identity, identity_of
from gcpatch.cli.options import add_verb
from gcpatch.errors import UserError


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "convert",
        run=run,
        summary="turn PyTorch weights into a checkpoint, or back",
        example="gcpatch convert vgg16 --weights mine.pth --classes classes.txt --name photos",
    )
    parser.add_argument(
        "network",
        nargs="?",
        metavar="NAME|timm:NAME|MODULE:FACTORY",
        help="a network, as `gcpatch models` lists them (default: the one whose names and shapes the file has); any other CNN by torchvision's name, as timm:NAME, or by a function that returns a torch.nn.Module; with --to-torch also an alias or a checkpoint's folder",
    )
    parser.add_argument(
        "--weights",
        metavar="ENUM|FILE",
        help="torchvision's name of the weights (default IMAGENET1K_V1, downloaded; of a factory, its own), a file of torch.save or safetensors, or random; with --to-torch a checkpoint folder",
    )
    parser.add_argument("--key", metavar="NAME", help="which of several state_dicts in the file")
    add_identity(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the user's cache, where `--model NAME` finds it)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace another checkpoint of the same name"
    )
    parser.add_argument(
        "--to-torch",
        action="store_true",
        help="write the checkpoint back as a state_dict, NAME.pth",
    )


def run(options: argparse.Namespace) -> int:
    """Writes a checkpoint, or with `--to-torch` a state_dict."""
    if options.network is None and (options.to_torch or options.weights is None):
        raise UserError("name a network, or a file of weights with --weights FILE")
    return _back(options) if options.to_torch else _forth(options)


def _back(options: argparse.Namespace) -> int:
    from convert import specs, torchvision
    from gcpatch.networks import checkpoints

    network = checkpoints.load(options.network, options.weights)
    path = (options.out or Path()) / f"{network.name}.pth"
    manifest = torchvision.manifest_of(options.weights or options.network)
    torchvision.save_torch(specs.to_torch(network, manifest), path)
    print(f"{network.name} as a state_dict: {path}")
    return 0


def _forth(options: argparse.Namespace) -> int:
    from gcpatch.networks import NAMES, checkpoints, factories

    if options.network not in (None, *NAMES) and not factories.is_spec(options.network):
        from convert import specs

        options.network = specs.spec_named(options.network)
    spec = options.network is not None and factories.is_spec(options.network)
    settings = identity_of(options)
    if spec:
        _check_name(options)
    network, source, versions, notes = _converted(options, settings)
    folder = options.out or checkpoints.home() / network.name
    if not options.force:
        checkpoints.check_same(network, folder)
    checkpoints.save(network, folder, source, versions)
    for note in notes:
        printing.warn(note, options.verb)
    print(f"{network.name} from {source}: {folder}")
    return 0


def _check_name(options: argparse.Namespace) -> None:
    """Raises UserError where what is imported would have no name, or that of another network."""
    from convert.settings import check_alias
    from gcpatch.networks import NAMES

    name = options.name or options.network.partition(":")[2]
    check_alias(name)
    if name in NAMES and not options.out:
        raise UserError(
            f"{name} is written out here: `gcpatch convert {name}` takes torchvision's weights, "
            "--name ALIAS keeps its graph beside it"
        )


def _converted(options: argparse.Namespace, settings: Any) -> tuple[Any, str, Any, Any]:
    """The network, where it comes from, the packages that had a part in it, and notes."""
    from gcpatch.networks import NAMES, random

    if options.weights == "random" and options.network in NAMES:
        network = random(options.network)
        settings.apply(network)
        return network, "random seed 0", None, ()
    from convert import specs, torchvision

    made = specs.convert(options.network, options.weights, settings, options.key)
    return made.network, made.source, torchvision.VERSIONS, made.notes
