"""Networks by any name: with a colon `torchvision:NAME`, `timm:NAME`, `module:factory`, or ours."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from convert import ConvertError, weights
from convert import torchvision as written_out
from convert.operators import torch, torchvision
from convert.reading import files, heads, state_dicts
from convert.reading.tensors import oddity
from convert.settings import Settings
from convert.torchvision import NOTHING, USUAL, Converted
from convert.tracing import imported
from convert.tracing.graph import build, from_module
from gcpatch.networks import SMALL, Network, Preprocessing, factories
from gcpatch.networks.graph import ARCHITECTURE
from gcpatch.networks.manifests import preprocessing_of
from gcpatch.networks.network import INTERPOLATIONS


def convert(
    spec: str | None,
    chosen: str | Path | None = None,
    settings: Settings = NOTHING,
    key: str | None = None,
) -> Converted:
    """The network of a PyTorch module through its graph, or of weights alone by its own name.

    Args:
        spec: as of `build`; an alias or a checkpoint's folder of such a network, whose settings are
            taken; or else as of `convert.torchvision.convert`.
        chosen: its weights: a file; torchvision's name of them; "random" for those that a module of
            torchvision's or timm's begins with, from seed 0; None for their own, which they
            download, and for those that a factory's module has.
        settings: what the user says of it, which goes before all that is known.
        key: which of several state_dicts in a file.

    Raises:
        ConvertError: there is no such module, it has no such weights, or it has no graph.
        UserError: the weights and the settings do not fit.
    """
    if spec is None or not factories.is_spec(spec):
        manifest = written_out.manifest_of(spec)
        if not manifest or manifest["network"] != ARCHITECTURE:
            return written_out.convert(spec, chosen or "IMAGENET1K_V1", settings, key)
        spec, settings = spec_of(manifest), _settings(manifest, settings)
    library, _, name = spec.partition(":")
    if chosen == "random" and library not in factories.LIBRARIES:
        raise ConvertError(f"{spec} has its own weights, and no random ones: leave out --weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build(spec)
    known, categories = None, None
    notes: tuple[str, ...] = ()
    if chosen == "random":
        source = f"{spec} random seed 0"
    elif chosen is not None and (path := Path(chosen).expanduser()).is_file():
        source, notes = _load_file(spec, module, path, key)
    elif library == "torchvision":
        member = _member(name, str(chosen or "DEFAULT"))
        _load(module, weights.download(spec, member), member.name)
        known, categories = weights.preprocessing_of(member), tuple(member.meta["categories"])
        source = f"{spec} {member.name}"
    elif chosen is not None:
        raise ConvertError(f"{spec} has no weights {str(chosen)!r}; give a file of them")
    elif library == "timm":
        module, source = build(spec, pretrained=True), f"{spec} pretrained"
    else:
        source = spec
    known = known or (_of_timm(module) if library == "timm" else None)
    preprocessing = settings.preprocessing(known or USUAL)
    network = from_module(
        module, name, settings.categories or categories, preprocessing, settings.layer
    )
    settings.apply(network)
    assumed = () if known else settings.assumed(network.preprocessing)
    return Converted(network, module.state_dict(), source, (*notes, *assumed))


def spec_named(name: str) -> str:
    """The spec of a network that is none of `gcpatch.networks.NAMES`.

    Raises:
        ConvertError: torchvision has none of this name.
    """
    if ":" in name:
        return name
    models = torchvision.models.list_models(module=torchvision.models)
    if name in models:
        return f"torchvision:{name}"
    near = difflib.get_close_matches(name, [*models, *SMALL], 3)
    hint = f"; near it are {', '.join(near)}" if near else ""
    raise ConvertError(
        f"there is no network {name!r}{hint}; give a name of torchvision's, timm:NAME, or "
        "MODULE:FACTORY, a function that returns a torch.nn.Module"
    )


def to_torch(network: Network, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The state_dict that a network's module of PyTorch loads with `strict=True`.

    Args:
        network: any that was converted.
        manifest: of an imported one.

    Raises:
        ConvertError: the module is not known, or no longer that of the network.
    """
    if network.architecture != ARCHITECTURE:
        return written_out.to_torch(network)
    return imported.to_torch(network, build(spec_of(manifest or {"source": "", "name": "it"})))


def spec_of(manifest: Mapping[str, Any]) -> str:
    """What an imported network's module was named.

    Raises:
        ConvertError: its manifest does not say.
    """
    spec = manifest["source"].partition(" ")[0]
    if ":" not in spec:
        raise ConvertError(f"the checkpoint of {manifest['name']} does not say of which module")
    return spec


def _settings(manifest: Mapping[str, Any], said: Settings) -> Settings:
    """What is known of a converted network, changed as the user says."""
    known = Settings(
        categories=tuple(manifest["categories"]),
        layer=manifest["target_layer"],
        name=manifest["name"],
        **asdict(preprocessing_of(manifest)),
    )
    given = {field.name: getattr(said, field.name) for field in fields(said)}
    return replace(known, **{name: value for name, value in given.items() if value is not None})


def _member(name: str, word: str) -> Any:
    members = torchvision.models.get_model_weights(name).__members__
    if word not in members:
        raise ConvertError(
            f"torchvision:{name} has no weights {word!r}; choose {', '.join([*members, 'a file'])}"
        )
    return members[word]


def _load_file(spec: str, module: Any, path: Path, key: str | None) -> tuple[str, tuple[str, ...]]:
    """Gives a module the weights in a file; returns where they come from, and what was taken."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    content = files.read(path)
    try:
        found = state_dicts.find(content, wanted, key)
        head = _fit_head(module, found.tensors)
        _check(head.state_dict, module)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None
    _load(module, head.state_dict, path.name)
    said = weights.taken(found.label, found.prefix, found.left_out)
    return f"{spec} {path.name}", tuple(note for note in (said, head.note) if note)


def _check(tensors: dict[str, Any], module: Any) -> None:
    """Raises ConvertError where what a module takes as floats is none, or is not finite."""
    floats = [key for key, value in module.state_dict().items() if value.is_floating_point()]
    found = {key: tensors[key] for key in floats if key in tensors}
    odd = [f"{key} ({why})" for key, value in found.items() if (why := oddity(value))]
    if not odd:
        odd = [f"{key} (not finite)" for key, x in found.items() if not bool(x.isfinite().all())]
    if odd:
        raise ConvertError(f"has what are no floating-point tensors: {state_dicts.listed(odd)}")


def _fit_head(module: Any, tensors: dict[str, Any]) -> heads.Head:
    """Gives a module's last linear layer as many outputs as the weights have; see `heads.settle`.

    Raises:
        ConvertError: the weights' head is not known, or has fewer than two outputs.
    """
    linear = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    if not linear:
        return heads.Head(tensors, None)
    head = heads.settle_layer(tensors, linear[-1])
    count = heads.classes_of_layer(head.state_dict, linear[-1])
    old = module.get_submodule(linear[-1])
    if count is not None and count != old.out_features:
        new = torch.nn.Linear(old.in_features, count, bias=old.bias is not None)
        module.set_submodule(linear[-1], new.eval())
    return head


def _load(module: Any, tensors: dict[str, Any], source: str) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConvertError(f"{source} does not fit this module: {reason}") from error


def _of_timm(module: Any) -> Preprocessing:
    """What timm says of the images that a module takes."""
    said = module.pretrained_cfg
    size = said["input_size"][-1]
    how = said["interpolation"]
    return Preprocessing(
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
        size=size,
        resize=max(size, int(size / said["crop_pct"])),
        interpolation=how if how in INTERPOLATIONS else "bilinear",
    )
