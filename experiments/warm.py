"""Steps of attacks that start from their target's universal patch, beside attacks that do not.

    python -m experiments.warm photos.csv --model vgg16 --targets dog,instrument

For each objective and target: a patch of `--made-on` images, then attacks on `--tested-on` others,
cold and from the patch. Prints a Markdown table: the steps of each image to the goal (with its
margin), `-` where it was not reached. Both are of one process, so that their seconds compare.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np

import gcpatch
from gcpatch.attacks.slots import Result
from gcpatch.cli.inputs import load_network
from gcpatch.data import labels, sources
from gcpatch.runs import library

HEAD = ("objective: target", "cold: steps", "warm: steps", "seconds: patch", "cold", "warm")


def steps(results: Sequence[Result]) -> str:
    """The steps of each image, in order."""
    reached = sorted(result.steps for result in results if result.converged)
    return " ".join([*map(str, reached), *"-" * (len(results) - len(reached))])


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", help="as of `gcpatch attack`")
    parser.add_argument("--model", required=True, help="a network's name")
    parser.add_argument("--targets", required=True, help="classes, with commas")
    parser.add_argument("--objectives", default="hide", help="with commas (hide)")
    parser.add_argument("--made-on", type=int, default=8, help="images of a patch (8)")
    parser.add_argument("--tested-on", type=int, default=6, help="other images (6)")
    parser.add_argument("--patch-steps", type=int, default=50, help="steps of a patch (50)")
    parser.add_argument("--steps", type=int, default=200, help="most steps of an attack (200)")
    parser.add_argument("--size", type=int, default=64, help="of the patch, in pixels (64)")
    options = parser.parse_args()
    network = load_network(options.model, None)
    side = network.preprocessing.size
    seen = library.see(network, sources.find(options.images, side, "stretch").items)
    patch, made_on = gcpatch.Patch(options.size), options.made_on
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for objective in options.objectives.split(","):
        for name in options.targets.split(","):
            target = labels.find(name, network.categories)
            others = np.random.default_rng(0).permutation(seen.images[seen.tops != target])
            tested = others[made_on : made_on + options.tested_on]
            how = gcpatch.Attack(objective=objective, steps=options.patch_steps)
            clock = [time.perf_counter()]
            targets = [target] * made_on
            made = gcpatch.universal(
                [network], others[:made_on], targets, patch, how, batch=made_on
            )
            clock.append(time.perf_counter())
            how = gcpatch.Attack(objective=objective, steps=options.steps)
            found = []
            for start in (None, gcpatch.Library([made.patch])):
                found.append(
                    gcpatch.attack(
                        network, tested, [target] * len(tested), patch, how, library=start
                    )
                )
                clock.append(time.perf_counter())
            cells = (f"{objective}: {name}", *map(steps, found), *np.diff(clock).round(1))
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
