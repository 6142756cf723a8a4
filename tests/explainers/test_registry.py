"""Every explainer under its name, with one signature."""

import inspect

import gcpatch
from gcpatch.explainers import registry


def test_every_explainer_has_the_same_signature():
    for name, method in registry.METHODS.items():
        function = getattr(gcpatch, name.replace("++", "_plus_plus").replace("-", "_"), method)
        for found in {method, function}:
            parameters = list(inspect.signature(found).parameters.values())
            assert [part.name for part in parameters[:3]] == ["network", "image", "label"], name
            kinds = {part.kind for part in parameters[3:]}
            assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}, name
