from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from gcpatch import networks
from gcpatch.data import scenes
from gcpatch.errors import UserError
from gcpatch.networks import VGG, ParameterError, ResNet, fill, parameters

# Of torchvision's models; without the running statistics, which torch counts as buffers.
PARAMETERS = {
    "vgg11": 132863336,
    "vgg11_bn": 132868840,
    "vgg13": 133047848,
    "vgg13_bn": 133053736,
    "vgg16": 138357544,
    "vgg16_bn": 138365992,
    "vgg19": 143667240,
    "vgg19_bn": 143678248,
    "resnet50": 25557032,
    "resnet101": 44549160,
    "resnet152": 60192808,
    "resnext50_32x4d": 25028904,
    "resnext101_32x8d": 88791336,
    "resnext101_64x4d": 83455272,
    "wide_resnet50_2": 68883240,
    "wide_resnet101_2": 126886696,
}

mini, create = cache(networks.random), cache(networks.create)


def pixels(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape).astype(dtype))


# --- stages, split, activations ----------------------------------------------


@pytest.mark.parametrize("name", ["mini_vgg_bn", "mini_resnext"])
def test_a_network_can_be_cut_behind_every_stage(name):
    network, image = mini(name), pixels(32, 32, 3)
    logits, activations = network(image), network.activations(image)
    assert list(activations) == list(network.stages())
    np.testing.assert_array_equal(activations[list(activations)[-1]], logits)
    for layer in network.stages():
        trunk, head = network.split(layer)
        np.testing.assert_array_equal(trunk(image), activations[layer])
        np.testing.assert_array_equal(head(trunk(image)), logits)


def test_activations_are_those_of_the_layers(tiny):
    image = pixels(32, 32, 3)
    assert list(tiny.activations(image)) == [
        *(f"features.{i}" for i in range(6)),
        "avgpool",
        *(f"classifier.{i}" for i in range(7)),
    ]
    value = (np.asarray(image) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel, bias = (np.asarray(getattr(tiny.features[0], name)[...]) for name in ("kernel", "bias"))
    padded = np.pad(value, ((1, 1), (1, 1), (0, 0)))
    first = bias + sum(
        padded[i : i + 32, j : j + 32] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    activations = tiny.activations(image)
    np.testing.assert_allclose(activations["features.0"], first, atol=1e-5)
    np.testing.assert_allclose(activations["features.1"], np.maximum(first, 0), atol=1e-5)
    assert activations["features.4"].shape == (16, 16, 6)
    assert activations["features.4"].min() == 0


@pytest.mark.parametrize(
    "layer, full",
    [
        ("features", "features.5"),
        ("features.1", "features.1"),
        ("classifier", "classifier.6"),
        ("avgpool", "avgpool"),
        (None, "features.4"),
    ],
)
def test_a_layer_s_name_may_be_a_prefix(tiny, layer, full):
    image = pixels(32, 32, 3)
    assert tiny.resolve(layer) == full
    trunk, _ = tiny.split(layer)
    np.testing.assert_array_equal(trunk(image), tiny.activations(image)[full])


def test_a_prefix_stands_for_the_last_of_several_blocks():
    network = create("resnet50")
    assert [network.resolve(f"layer{i}") for i in (1, 2, 3, 4)] == [
        "layer1.2",
        "layer2.3",
        "layer3.5",
        "layer4.2",
    ]


@pytest.mark.parametrize("layer", ["layer4", "features.99", "feat", "normalize", ""])
def test_an_unknown_layer(tiny, layer):
    message = rf"tiny has no layer '{layer}'; it has features\.0, .*, classifier\.6"
    with pytest.raises(UserError, match=message):
        tiny.split(layer)


def test_leading_axes(tiny_resnet):
    network, images = tiny_resnet, pixels(2, 3, 32, 32, 3)
    run = jax.jit(network)
    logits = run(images)
    assert logits.shape == (2, 3, 7)
    for i, j in np.ndindex(2, 3):
        assert_close(logits[i, j], run(images[i, j]))
    assert np.ptp(logits, axis=(0, 1)).min() > 1e-3
    many = jax.jit(jax.vmap(network))(images[0])
    assert_close(many, logits[0])


def test_accelerators_compute_the_same(tiny_resnet, accelerator):
    network, image = tiny_resnet, pixels(32, 32, 3)
    ours = jax.jit(lambda image: network(image))(image)
    accelerator()
    theirs = jax.jit(lambda image: network(image))(image)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(ours, theirs)  # they are two programs


def test_a_network_in_float64(tiny, tiny64):
    image = pixels(32, 32, 3, dtype=np.float64)
    logits = tiny64(image)
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, tiny(image.astype(np.float32)), rtol=1e-4, atol=1e-4)


def test_normalize(tiny):
    image = pixels(4, 5, 3)
    expected = (np.asarray(image) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(tiny.normalize(image), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tiny.denormalize(tiny.normalize(image)), image, atol=1e-6)
    np.testing.assert_allclose(tiny.denormalize(jnp.zeros(3)), [0.485, 0.456, 0.406], rtol=1e-6)


def test_normalize_in_double_precision(tiny, x64):
    image = pixels(4, 5, 3, dtype=np.float64)
    back = tiny.denormalize(tiny.normalize(image))
    np.testing.assert_allclose(back, image, rtol=1e-14, atol=1e-15)


# --- zoo ---------------------------------------------------------------------


def test_names():
    assert set(networks.NAMES) == {*PARAMETERS, *networks.SMALL}
    assert set(networks.PAPER) <= set(networks.NAMES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_torchvision_s_parameters(name):
    network = create(name)
    sizes = {key: int(np.prod(leaf.shape)) for key, leaf in parameters(network).items()}
    statistics = ("mean", "var")
    trainable = [n for key, n in sizes.items() if key.rsplit(".", 1)[1] not in statistics]
    assert sum(trainable) == PARAMETERS[name]
    assert isinstance(network, VGG if "vgg" in name else ResNet)
    assert network.name == name
    assert len(network.categories) == 1000
    layer = {"vgg19": "features.35", "vgg19_bn": "features.51", "vgg16": "features.29"}.get(name)
    if layer or isinstance(network, ResNet):
        assert network.target_layer == (layer or "layer4")


@pytest.mark.parametrize("name, shape", [("vgg19", (14, 14, 512)), ("resnet50", (7, 7, 2048))])
def test_the_map_s_resolution(name, shape):
    image = jax.ShapeDtypeStruct((224, 224, 3), np.float32)
    trunk = jax.eval_shape(lambda network, image: network.split()[0](image), create(name), image)
    assert trunk.shape == shape


@pytest.mark.parametrize("name", networks.MINIS)
def test_minis_know_the_scenes(name):
    network = networks.create(name)
    assert network.categories == scenes.CATEGORIES
    logits = jax.eval_shape(lambda network, x: network(x), network, jnp.zeros((224, 224, 3)))
    assert logits.shape == (len(scenes.CATEGORIES),)


def test_categories_of_one_s_own():
    network = networks.create("mini_vgg", ("cat", "dog"))
    assert network.categories == ("cat", "dog")
    assert parameters(network)["classifier.6.kernel"].shape == (64, 2)


def test_an_unknown_network():
    message = r"no network 'vgg99'; choose one of vgg11, .*, mini_resnext"
    with pytest.raises(UserError, match=message):
        networks.create("vgg99")


def test_random_weights_follow_from_name_and_seed():
    first, again, other = (parameters(networks.random("mini_vgg_bn", seed)) for seed in (0, 0, 1))
    for key, value in first.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again[key])
        assert np.abs(value - other[key]).min() > 0, key  # no constant is left
    assert len({float(value.ravel()[0]) for value in first.values()}) == len(first)
    kernel = first["classifier.0.kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / np.prod(kernel.shape[:-1])), rtol=0.05)
    assert all(value.min() > 0 for key, value in first.items() if key.endswith(".var"))


def test_random_weights_are_the_same_on_every_machine():
    kernel = parameters(networks.random("mini_resnext"))["layer2.0.conv2.kernel"]
    expected = [0.16024102, -0.20699243, -0.37524104]
    np.testing.assert_allclose(kernel[0, 0, 0, :3], expected, rtol=1e-6)


# --- parameters --------------------------------------------------------------


def test_parameters_have_torchvision_s_paths():
    keys = set(parameters(networks.create("mini_resnext")))
    for key in (
        "conv1.kernel",
        "bn1.scale",
        "bn1.mean",
        "layer1.0.conv2.kernel",
        "layer4.0.bn3.var",
        "layer3.0.downsample.0.kernel",
        "layer3.0.downsample.1.bias",
        "fc.bias",
    ):
        assert key in keys
    assert not any("rngs" in key or "count" in key for key in keys)


def test_fill_gives_another_network_and_leaves_the_first_alone(tiny):
    before = {key: np.asarray(value) for key, value in parameters(tiny).items()}
    other = fill(tiny, {key: value + 1 for key, value in before.items()})
    for key, value in parameters(other).items():
        np.testing.assert_array_equal(value, before[key] + 1)
        np.testing.assert_array_equal(parameters(tiny)[key], before[key])
    assert type(other) is VGG and other.categories == tiny.categories


def test_fill_lists_everything_that_does_not_fit(tiny):
    values = dict(parameters(tiny))
    del values["features.0.bias"], values["classifier.3.kernel"]
    values["fc.bias"] = np.zeros(4)
    values["features.3.bias"] = np.zeros(7)
    with pytest.raises(ParameterError) as error:
        fill(tiny, values)
    for part in (
        "weights of tiny",
        "missing features.0.bias (4,)",
        "missing classifier.3.kernel (8, 8)",
        "extra fc.bias (4,)",
        "features.3.bias has shape (7,) instead of (6,)",
    ):
        assert part in str(error.value)
