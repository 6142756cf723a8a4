"""Networks of a graph, without torch: cuts, names, parameters, checkpoints and what is refused."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch.errors import UserError
from gcpatch.interpreters.relu import smooth
from gcpatch.networks import Preprocessing, checkpoints, fill, parameters
from gcpatch.networks.graph import GraphError, create
from gcpatch.networks.operations import OPERATIONS

SIDE, CLASSES = 8, ("a", "b")
TINY = Preprocessing(mean=(0.5, 0.4, 0.3), size=SIDE, resize=SIDE)


def node(name, operation, *inputs, parameters=(), **attributes):
    return {
        "name": name,
        "operation": operation,
        "inputs": list(inputs),
        "attributes": attributes,
        "parameters": {key.rpartition(".")[2]: key for key in parameters},
        "layout": [0, 2, 3, 1],
    }


CONV = {"strides": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1}
# Two residual blocks; names that are those of a network's own methods are torch's in timm.
GRAPH = {
    "target_layer": "stages.1",
    "parameters": {
        "stem.kernel": [3, 3, 3, 4],
        "stages.0.conv.kernel": [3, 3, 4, 4],
        "stages.0.conv.bias": [4],
        "stages.1.mean": [4],
        "stages.1.var": [4],
        "name.kernel": [4, 2],
    },
    "nodes": [
        node("stem", "conv2d", "image", parameters=["stem.kernel"], **CONV),
        node(
            "stages.0.conv",
            "conv2d",
            "stem",
            parameters=["stages.0.conv.kernel", "stages.0.conv.bias"],
            **CONV,
        ),
        node("stages.0.act", "relu", "stages.0.conv"),
        node("stages.0.add", "add", "stages.0.act", "stem"),
        node(
            "stages.1",
            "batch_norm",
            "stages.0.add",
            parameters=["stages.1.mean", "stages.1.var"],
            epsilon=1e-5,
        ),
        node("pool", "mean", "stages.1", axes=[-3, -2], keep=False),
        node("name", "linear", "pool", parameters=["name.kernel"]),
    ],
}


@pytest.fixture(scope="module")
def network():
    made = create(GRAPH, "tiny", CLASSES, TINY)
    generator = np.random.default_rng(0)
    values = {
        key: generator.normal(size=leaf.shape).astype(np.float32)
        for key, leaf in parameters(made).items()
    }
    return fill(made, values | {"stages.1.var": np.float32([0.5, 1, 2, 3])})


def pixels(*leading):
    return jnp.asarray(np.random.default_rng(1).random((*leading, SIDE, SIDE, 3)), jnp.float32)


def test_parameters_have_the_graph_s_keys(network):
    shapes = {key: list(value.shape) for key, value in parameters(network).items()}
    assert shapes == GRAPH["parameters"]


def test_it_is_cut_at_every_node_that_it_passes_through_alone(network):
    image = pixels()
    logits, activations = network(image), network.activations(image)
    assert list(activations) == [node["name"] for node in GRAPH["nodes"]]
    assert list(network.stages()) == ["stem", "stages.0.add", "stages.1", "pool", "name"]
    for layer in network.stages():
        trunk, head = network.split(layer)
        np.testing.assert_allclose(trunk(image), activations[layer], rtol=1e-5)
        np.testing.assert_allclose(head(trunk(image)), logits, rtol=1e-5)
    np.testing.assert_array_equal(network.split()[0](image), network.split("stages")[0](image))


def test_leading_axes(network):
    images = pixels(2, 3)
    logits = jax.jit(lambda network, images: network(images))(network, images)
    assert logits.shape == (2, 3, 2)
    np.testing.assert_allclose(logits[1, 2], network(images[1, 2]), rtol=1e-5)


@pytest.mark.parametrize(
    "layer, message",
    [
        ("stages.0.conv", "cannot be cut at stages.0.conv, .*; it can be at stem, stages.0.add, "),
        ("stages.7", "has no layer 'stages.7'; it can be cut at stem, .*, name"),
        ("normalize", "has no layer"),
    ],
)
def test_layers_where_it_cannot_be_cut(network, layer, message):
    with pytest.raises(UserError, match=message):
        network.split(layer)


def test_only_some_of_many_layers_are_listed():
    graph = copy.deepcopy(GRAPH)
    graph["nodes"][-1:] = [
        *(node(f"act{i}", "relu", f"act{i - 1}" if i else "pool") for i in range(20)),
        graph["nodes"][-1] | {"inputs": ["act19"]},
    ]
    with pytest.raises(UserError, match=r"cut at act15, .*, name and 19 others$"):
        create(graph, "tiny", CLASSES, TINY).split("nowhere")


def test_a_checkpoint_holds_the_graph(network, tmp_path):
    manifest = checkpoints.save(network, tmp_path / "tiny", "a test")
    assert manifest["options"]["graph"] == GRAPH
    again = checkpoints.read(tmp_path / "tiny")
    assert (again.name, again.preprocessing, again.categories) == ("tiny", TINY, CLASSES)
    assert checkpoints.digest(again) == checkpoints.digest(network)
    np.testing.assert_array_equal(again(pixels()), network(pixels()))
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(path.read_text().replace('"relu"', '"silu"'))
    with pytest.raises(checkpoints.CheckpointError, match="not those of its digest"):
        checkpoints.read(tmp_path / "tiny")
    path.write_text(path.read_text().replace('"silu"', '"os.system"'))
    with pytest.raises(checkpoints.CheckpointError, match=r"unknown operation 'os.system'"):
        checkpoints.read(tmp_path / "tiny")


def test_its_relus_can_be_smoothed(network):
    difference = np.abs(smooth(network, beta=1.0)(pixels()) - network(pixels()))
    assert difference.min() > 1e-4


def change(**changes):
    graph = copy.deepcopy(GRAPH)
    for place, value in changes.items():
        target = graph["nodes"][1] if place in graph["nodes"][1] else graph
        target[place] = value
    return graph


@pytest.mark.parametrize(
    "graph, message",
    [
        (change(operation="eval"), "stages.0.conv has the unknown operation 'eval'; known are "),
        (change(name="stem"), "two nodes of the name stem"),
        (change(inputs=["pool"]), "reads 'pool', which is not before it"),
        (change(inputs=["stem", "stem"]), "cannot be run on images of 8 pixels"),
        (change(attributes={"groups": 3}), "cannot be run on images of 8 pixels"),
        (change(attributes=["groups"]), "malformed"),
        (change(nodes=[]), "has no nodes"),
        (change(nodes=None), "malformed"),
        (change(nodes=[{"name": "stem"}]), "malformed"),
        ({"target_layer": "stem"}, "malformed"),
        (change(nodes=GRAPH["nodes"][:-1]), r"gives \[4\] instead of 2 logits"),
        (change(target_layer="stages.0.conv"), "cannot be cut at"),
    ],
)
def test_a_bad_graph_gets_one_sentence(graph, message):
    with pytest.raises(UserError, match=message) as error:
        create(graph, "tiny", CLASSES, TINY)
    assert "\n" not in str(error.value)


def test_a_missing_shape():
    graph = copy.deepcopy(GRAPH)
    del graph["parameters"]["stem.kernel"]
    with pytest.raises(GraphError, match=r"node stem has the parameter 'stem\.kernel' without a"):
        create(graph, "tiny", CLASSES, TINY)


def test_equal_graphs_share_compiled_programs(network):
    again = create(json.loads(network.graph), "tiny", CLASSES, TINY)
    assert jax.tree.structure(again) == jax.tree.structure(network)


# ---- operations whose settings no other test has


def test_a_mean_without_padding_counts_what_it_sees():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    how = {"size": [2, 2], "strides": [2, 2], "padding": [[1, 1], [1, 1]], "ceil": False}
    mean = OPERATIONS["avg_pool2d"](x, **how, count_padding=False)
    np.testing.assert_allclose(mean[0, ..., 0], [[0, 1.5], [4.5, 6]])
    mean = OPERATIONS["avg_pool2d"](x, **how, count_padding=True)
    np.testing.assert_allclose(mean[0, ..., 0], [[0, 0.75], [2.25, 6]])


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_derivatives_at_zero_are_torch_s(name):
    how = {"leaky_relu": {"slope": 0.1}, "elu": {"alpha": 0.1}}[name]
    slope = jax.grad(lambda x: OPERATIONS[name](x, **how))(jnp.float32(0))
    np.testing.assert_allclose(slope, 0.1, rtol=1e-6)
