"""Deliberate faults: one edit of one source file each, which some test must notice.

A fault is the kind of mistake that a tired person makes and that nothing crashes on: a wrong cell,
a forgotten factor, a record that is believed. `python -m tests.faults` plants them one by one.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    """An edit of a file: `old`, which stands there exactly once, becomes `new`."""

    area: str
    name: str
    path: str
    old: str
    new: str
    tests: str  # where it should be noticed first, as pytest takes it


FAULTS = (
    # ---- the attack
    Fault(
        "attack", "the gradient by N forgets the ratio", "gcpatch/attacks.py",
        "by_noise = gradient * problem.ratio * jnp", "by_noise = gradient * jnp",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "N is not kept to valid pixels", "gcpatch/attacks.py",
        "if attack.project or problem.bound is not None:", "if problem.bound is not None:",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "the last patch is kept and not the best", "gcpatch/attacks.py",
        "partial(jnp.where, lacking < state.best_shortfall)", "partial(jnp.where, lacking < jnp.inf)",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "an image that is done goes on", "gcpatch/attacks.py",
        "jax.tree.map(partial(jnp.where, state.done), state, new)", "new",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "the cross-entropy's gate is always open", "gcpatch/attacks.py",
        "jnp.where(wanted, entropy, 0)", "entropy",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "patience counts all hits and not those in a row", "gcpatch/attacks.py",
        "jnp.where(lacking == 0, state.streak + 1, 0)",
        "jnp.where(lacking == 0, state.streak + 1, state.streak)",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "the rival of the target is the target itself", "gcpatch/attacks.py",
        "jnp.max(odds.at[target].set(0))", "jnp.max(odds)",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "a start at random ignores the key", "gcpatch/attacks.py",
        "jax.random.uniform(problem.key, tile.shape", "jax.random.uniform(jax.random.key(0), tile.shape",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "histories are one step short after a refill", "gcpatch/slots.py",
        "leaf[:count, slot]", "leaf[: max(count - 1, 1), slot]",
        "tests/test_attacks.py",
    ),
    Fault(
        "attack", "the bound of L-infinity is twice as wide", "gcpatch/attacks.py",
        "jnp.minimum(clean + problem.bound, 1)", "jnp.minimum(clean + 2 * problem.bound, 1)",
        "tests/test_regions.py",
    ),
    # ---- where a patch lies
    Fault(
        "patches", "a share of a cell counts as the whole cell", "gcpatch/patches.py",
        "return jnp.clip(overlap, 0) / side", "return jnp.ceil(jnp.clip(overlap, 0) / side)",
        "tests/test_patches.py",
    ),
    Fault(
        "patches", "left and right are exchanged", "gcpatch/patches.py",
        'column = 0 if horizontal == "left"', 'column = 0 if horizontal == "right"',
        "tests/test_patches.py",
    ),
    Fault(
        "patches", "a frame leaves its right side out", "gcpatch/regions.py",
        "inside[self.width : -self.width, self.width : -self.width] = 0",
        "inside[self.width : -self.width, self.width :] = 0",
        "tests/test_regions.py",
    ),
    # ---- incremental evaluation
    Fault(
        "incremental", "padding is left out at the border", "gcpatch/incremental.py",
        "pads.append((max(0, -start), max(0, stop - lengths[axis])))",
        "pads.append((max(0, -start), 0))",
        "tests/test_incremental.py",
    ),
    Fault(
        "incremental", "a rectangle grows by one row too few", "gcpatch/incremental.py",
        "last = max(min(outputs[axis] - 1, (high - 1 + pad) // stride), first)",
        "last = max(min(outputs[axis] - 1, (high - 2 + pad) // stride), first)",
        "tests/test_incremental.py",
    ),
    Fault(
        "incremental", "two tiles of a sum do not widen to their hull", "gcpatch/incremental.py",
        "Span(min(rows.low, more_rows.low), max(rows.high, more_rows.high)),",
        "Span(min(rows.low, more_rows.low), rows.high),",
        "tests/test_incremental.py",
    ),
    Fault(
        "incremental", "an operation without a rule counts as elementwise", "gcpatch/incremental.py",
        '"abs", "add", "clamp"', '"abs", "add", "reduce_sum", "clamp"',
        "tests/test_incremental.py",
    ),
    Fault(
        "incremental", "groups of a convolution are forgotten", "gcpatch/incremental.py",
        'feature_group_count=params["feature_group_count"],', "",
        "tests/test_incremental.py",
    ),
    Fault(
        "incremental", "a sliding window is filled with zeros before a maximum", "gcpatch/sliding.py",
        '"reduce_window_max": -np.inf', '"reduce_window_max": 0.0',
        "tests/test_occlusions.py",
    ),
    # ---- explainers
    Fault(
        "explainers", "Grad-CAM without ReLU", "gcpatch/explainers.py",
        "return jax.nn.relu(activations @ weights)", "return activations @ weights",
        "tests/test_explainers.py",
    ),
    Fault(
        "explainers", "HiResCAM averages the gradient", "gcpatch/explainers.py",
        "return jax.nn.relu((gradient * activations).sum(-1))",
        "return jax.nn.relu((gradient.mean((0, 1)) * activations).sum(-1))",
        "tests/test_explainers.py",
    ),
    Fault(
        "explainers", "LayerCAM keeps negative gradients", "gcpatch/explainers.py",
        "(jax.nn.relu(gradient) * activations)", "(gradient * activations)",
        "tests/test_explainers.py",
    ),
    Fault(
        "explainers", "Grad-CAM++ squares where it cubes", "gcpatch/explainers.py",
        "below = 2 * positive**2 + total * positive**3 + epsilon",
        "below = 2 * positive**2 + total * positive**2 + epsilon",
        "tests/test_explainers.py",
    ),
    Fault(
        "explainers", "integrated gradients ignore the baseline", "gcpatch/gradients.py",
        "start + places * change", "places * image",
        "tests/test_gradients.py",
    ),
    Fault(
        "explainers", "guided backpropagation is plain backpropagation", "gcpatch/gradients.py",
        "(jax.nn.relu(g) * (x > 0),)", "(g * (x > 0),)",
        "tests/test_gradients.py",
    ),
    Fault(
        "explainers", "SmoothGrad averages absolute values", "gcpatch/gradients.py",
        "_saliency(_gradients(network, image + noise, label, score).mean(0))",
        "_saliency(_gradients(network, image + noise, label, score)).mean(0)",
        "tests/test_gradients.py",
    ),
    Fault(
        "explainers", "occlusion sums windows and does not average", "gcpatch/occlusions.py",
        "return sums / np.outer(*(o.sum(0) for o in over))", "return sums",
        "tests/test_occlusions.py",
    ),
    # ---- losses
    Fault(
        "losses", "hide divides by all cells", "gcpatch/losses.py",
        "jnp.sum(evidence.heat * evidence.coverage) / jnp.sum(evidence.coverage)",
        "jnp.mean(evidence.heat * evidence.coverage)",
        "tests/test_losses.py",
    ),
    Fault(
        "losses", "highlight is turned round", "gcpatch/losses.py",
        "return 1 - energy(evidence.heat, evidence.coverage)",
        "return energy(evidence.heat, evidence.coverage)",
        "tests/test_losses.py",
    ),
    Fault(
        "losses", "paper takes four cells whatever the patch", "gcpatch/losses.py",
        "count = 4 if evidence.tile.shape[0] == 64 else 2", "count = 4",
        "tests/test_losses.py",
    ),
    Fault(
        "losses", "swap takes the target's map twice", "gcpatch/losses.py",
        "back = square_error(evidence.heat, evidence.clean_heat)",
        "back = square_error(evidence.heat, evidence.clean_heat_of_target)",
        "tests/test_losses.py",
    ),
    Fault(
        "losses", "the length of a zero vector has no gradient", "gcpatch/losses.py",
        "return jnp.where(square > 0, jnp.sqrt(_or_one(square)), 0)", "return jnp.sqrt(square)",
        "tests/test_losses.py",
    ),
    # ---- campaigns and metrics
    Fault(
        "campaigns", "the verdict is taken before the PNG", "gcpatch/campaigns.py",
        "_verdict(name, png[\"id\"] == clean.target,",
        "_verdict(name, int(logits.argmax()) == clean.target,",
        "tests/test_campaigns.py",
    ),
    Fault(
        "campaigns", "the clean energy is that of the top class", "gcpatch/campaigns.py",
        '"energy_clean": metrics.energy(clean.heat_of_target, covered)',
        '"energy_clean": metrics.energy(clean.heat, covered)',
        "tests/test_campaigns.py",
    ),
    Fault(
        "campaigns", "a snapshot of another image is taken up", "gcpatch/campaigns.py",
        "if found is None or found.sha256 != picture.sha256:", "if found is None:",
        "tests/test_campaigns.py",
    ),
    Fault(
        "campaigns", "one bad image ends the run", "gcpatch/campaigns.py",
        "                except Exception as error:  # whatever is wrong with this one image\n"
        "                    self.writing",
        "                except ZeroDivisionError as error:\n                    self.writing",
        "tests/test_campaigns.py",
    ),
    Fault(
        "campaigns", "pointing looks for the minimum", "gcpatch/metrics.py",
        "coverage.ravel()[heat.argmax()] >= 0.5", "coverage.ravel()[heat.argmin()] >= 0.5",
        "tests/test_metrics.py",
    ),
    Fault(
        "campaigns", "a random target may be the image's own class", "gcpatch/labels.py",
        "np.sort(order[1:])[np.random.default_rng(seed).integers(len(order) - 1)]",
        "np.sort(order)[np.random.default_rng(seed).integers(len(order))]",
        "tests/test_labels.py",
    ),
    # ---- the journal
    Fault(
        "journal", "failures are not tried again", "gcpatch/journal.py",
        'if record["error"] is None and record["id"] not in self.done:',
        'if record["id"] not in self.done:',
        "tests/test_journal.py",
    ),
    Fault(
        "journal", "a torn last line ends the run", "gcpatch/journal.py",
        'if not line.endswith(b"\\n"):', 'if not line:',
        "tests/test_journal.py",
    ),
    Fault(
        "journal", "other settings are accepted", "gcpatch/journal.py",
        "        if differing:", "        if len(differing) > 99:",
        "tests/test_journal.py",
    ),
    Fault(
        "journal", "an image's folder appears while it is written", "gcpatch/journal.py",
        'partial = place.with_name(f".{identity}.partial")', "partial = place",
        "tests/test_journal.py",
    ),
    Fault(
        "journal", "two processes share a folder", "gcpatch/journal.py",
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "fcntl.flock(lock, fcntl.LOCK_SH)",
        "tests/test_journal.py",
    ),
    # ---- inputs and pictures
    Fault(
        "inputs", "a path is taken from the working directory", "gcpatch/inputs.py",
        "where = os.path.join(folder, path)", "where = path",
        "tests/test_inputs.py",
    ),
    Fault(
        "inputs", "a cut archive is accepted", "gcpatch/inputs.py",
        "if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):", "if False:",
        "tests/test_inputs.py",
    ),
    Fault(
        "inputs", "of members of one name the first counts", "gcpatch/inputs.py",
        "members[name] = member.offset_data, member.size",
        "members.setdefault(name, (member.offset_data, member.size))",
        "tests/test_inputs.py",
    ),
    Fault(
        "inputs", "a picture taken upside down stays so", "gcpatch/images.py",
        "if orientation in (3, 4, 7, 8) else image", "if orientation in (3, 7, 8) else image",
        "tests/test_images.py",
    ),
    Fault(
        "inputs", "transparency is laid over black", "gcpatch/images.py",
        "(colour * alpha + 255 * (255 - alpha) + 127)", "(colour * alpha + 127)",
        "tests/test_images.py",
    ),
    # ---- the report
    Fault(
        "report", "an ended curve counts as zero in the median", "gcpatch/report.py",
        "curve[np.minimum(picked, len(curve) - 1)]",
        "np.where(picked < len(curve), curve[np.minimum(picked, len(curve) - 1)], 0)",
        "tests/test_report.py",
    ),
    Fault(
        "report", "what a run brings along can end the script", "gcpatch/report.py",
        'text.replace("<", "\\\\u003c")', "text",
        "tests/test_report.py",
    ),
    Fault(
        "report", "runs of other settings are merged", "gcpatch/merging.py",
        "        _agree(runs[0], found[0][\"settings\"], run, inner)\n", "",
        "tests/test_report.py",
    ),
    Fault(
        "report", "failed images count in the rates", "gcpatch/summary.py",
        "            failed += 1\n            continue", "            failed += 1",
        "tests/test_journal.py",
    ),
    Fault(
        "report", "99.97 % is shown as 100 %", "gcpatch/render.py",
        "if 0 < share < 0.001 or 0.999 < share < 1:", "if 0 < share < 0.001:",
        "tests/test_render.py",
    ),
    Fault(
        "report", "jet is in OpenCV's order of colours", "gcpatch/render.py",
        "cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]",
        "cv2.applyColorMap(levels, cv2.COLORMAP_JET)",
        "tests/test_render.py",
    ),
    # ---- transfer, universal patches, defences
    Fault(
        "transfer", "classes are compared by number and not by name", "gcpatch/transfer.py",
        'labels.find(record["target"]["name"], network.categories)', 'record["target"]["id"]',
        "tests/test_transfer.py",
    ),
    Fault(
        "transfer", "failed images are asked as well", "gcpatch/transfer.py",
        '        if not record["error"]:\n', "        if True:\n",
        "tests/test_transfer.py",
    ),
    Fault(
        "transfer", "the patch stays where it was behind a crop", "gcpatch/transfer.py",
        "if change.moves:", "if False:",
        "tests/test_transfer.py tests/test_defences.py",
    ),
    Fault(
        "transfer", "a universal patch is not laid with its ratio", "gcpatch/views.py",
        "blended = (1 - ratio) * image + ratio * jnp.clip", "blended = jnp.clip",
        "tests/test_expectation.py",
    ),
    Fault(
        "transfer", "an ensemble asks its first network only", "gcpatch/expectation.py",
        "sum(totals) / len(totals), mean", "totals[0], mean",
        "tests/test_expectation.py",
    ),
)
