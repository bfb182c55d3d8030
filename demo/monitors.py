"""The demo's monitors: `python -m demo.monitors` makes them, on one core in a quarter of an hour.

What can be chosen (layer, regularisation, tokens, pools, the amount and the gate of `gated`) is
chosen here and printed, on the portion of the world to fit on. Probes are then fitted and latents
found on that portion, and every monitor is calibrated, unsteered, on the portion for that. No
held-out item is drawn. The documents that say what was chosen or trained are written too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from demo import dictionary, gating, written
from demo.baselines import beside
from demo.choosing import choose, half, see
from demo.dictionary import Latent
from demo.effects import HERE, Demo
from demo.gating import Gating
from demo.generate import Talker
from demo.labelled import MONITORS, Answered, answered, slices_of
from demo.obeyed import POLICY, labelled, obeyed
from demo.portions import HALVES, Portion
from demo.probes import MAX, RECIPES, Choice, Recipe, chosen, fitted
from demo.prompts import conversation
from demo.watched import WatchedDemo
from demo.written import FEATURES, GATED, PROBES, WATCHED
from forward.container import Artifact, find_artifacts, read_artifact
from monitors import calibration_card, probe_card
from monitors.binding import Binding
from monitors.calibration import Calibration, CalibrationProvenance, calibrate
from monitors.items import Item
from monitors.offline import Scoring, score_items
from monitors.plan import MonitorPlan
from monitors.probe import Probe
from monitors.sae import Sae
from monitors.sae_card import save_sae

FAMILIES = {"harm": ("harm", "harm-answer", "refusal"), "deception": ("deception",)}
"""The monitors that share prompts, by the one that they are drawn for."""
Numbers = Mapping[str, int]
Prompts = Mapping[str, Sequence[Answered]]
"""By family."""


@dataclass(frozen=True)
class Sizes:
    """Items a slice by family, and the dictionary's training.

    Probes are fitted on what both halves have and as much that lies across them, with fewer of the
    padded slices, which take most of the time. To calibrate there are some thousands of benign
    requests for every monitor, as many of each slice: the false-positive rate of 1 in 100 is then
    known to a third of itself.
    """

    half: Numbers = field(default_factory=lambda: {"harm": 150, "deception": 150})
    across: Numbers = field(default_factory=lambda: {"harm": 150, "deception": 150})
    padded: int = 50
    calibrate: Numbers = field(default_factory=lambda: {"harm": 280, "deception": 220})
    training: dictionary.Recipe = dictionary.RECIPE
    documents: int = dictionary.N_DOCUMENTS


class Maker:
    """Makes everything for one checkpoint in one policy folder."""

    def __init__(self, checkpoint: Path, policies: Path, sizes: Sizes, progress: Progress) -> None:
        """Load the model and the policies that steer it."""
        self.checkpoint, self.policies, self.sizes = checkpoint, policies, sizes
        self.artifacts = policies / "artifacts"
        self.progress = progress
        self.demo = Demo(checkpoint, policies)
        self.talker = self.demo.talker
        self.fingerprint = self.demo.model.digest

    def make(self) -> None:
        """Choose, fit, train, calibrate, and write the documents, in this order."""
        sizes = self.sizes
        halves = [self.prompts(portion, sizes.half, sizes.padded) for portion in HALVES]
        choices = self.choices(halves)
        across = self.prompts("train", sizes.across, sizes.padded)
        probes = self.probes(choices, self.items(*halves, across))
        self.write(PROBES, [written.probe_document(name, choices[name]) for name in MONITORS])
        items = self.items(across)
        latents = self.latents(self.sae(), probes, items)
        self.write(FEATURES, [written.feature_document(*one) for one in latents.items()])
        calibrations = self.calibrations(items)
        self.write(GATED, [written.gated_document(self.gating(calibrations["harm"]))])

    def prompts(self, portion: Portion, n: Numbers, padded: int | None = None) -> Prompts:
        """Return the answered prompts of a portion, and what harm is obeyed under a policy."""
        found: dict[str, list[Answered]] = {}
        for family, most in n.items():
            task = self.bar(f"answers to {portion} on", len(slices_of(family, portion)))
            found[family] = answered(
                family, portion, most, self.talker, 0, lambda _, advance=task: advance(1), padded
            )
        found["harm"] += obeyed(found["harm"], self.talker, self.demo.program(POLICY))
        return found

    def items(self, *drawn: Prompts) -> dict[str, list[Item]]:
        """Return the labelled items of every monitor."""
        return {
            name: [
                item
                for prompts in drawn
                for item, _ in labelled(name, prompts[family], prompts[family], self.talker)
            ]
            for family, names in FAMILIES.items()
            for name in names
        }

    def choices(self, halves: Sequence[Prompts]) -> dict[str, Choice]:
        """Choose how every probe is fitted and print what was compared."""
        found: dict[str, Choice] = {}
        for family, names in FAMILIES.items():
            pairs = [(prompts[family], see(prompts[family], self.talker)) for prompts in halves]
            for recipe in (one for one in RECIPES.values() if one.monitor in names):
                parts = [half(recipe, *pair, self.talker) for pair in pairs]
                found[recipe.name] = choose(recipe, parts, self.compared)
                self.say(f"{recipe.name}: chosen is {found[recipe.name]}")
        return found

    def compared(self, recipe: Recipe, choice: Choice, worth: float) -> None:
        """Print an alternative with the recall at low rates that it had."""
        self.say(f"{recipe.name}: {worth:.3f}  {choice}")

    def probes(
        self, choices: Mapping[str, Choice], items: Mapping[str, list[Item]]
    ) -> dict[str, Probe]:
        """Fit and keep every probe."""
        found: dict[str, Probe] = {}
        for name, recipe in self.progress.track(RECIPES.items(), description="fitting probes"):
            cases = items[recipe.monitor]
            found[name] = fitted(recipe, choices[name], cases, self.talker, self.fingerprint)
            keep(probe_card.to_artifact(found[name]), self.artifacts)
        return found

    def sae(self) -> Sae:
        """Train and keep the dictionary."""
        task = self.progress.add_task("training the dictionary", total=self.sizes.training.tokens)

        def told(done: int, _total: int, fvu: float) -> None:
            text = f"training the dictionary, FVU {fvu:.3f}"
            self.progress.update(task, completed=done, description=text)

        found = dictionary.trained(
            self.talker, self.fingerprint, self.sizes.training, self.sizes.documents, told
        )
        save_sae(found, self.artifacts)
        return found

    def latents(
        self, sae: Sae, probes: Mapping[str, Probe], items: Mapping[str, list[Item]]
    ) -> dict[str, Latent]:
        """Choose the latent of each monitor that has one."""
        return {
            name: dictionary.best_latent(
                sae,
                items[name],
                MonitorPlan(name, probes[name].reader(), MAX, RECIPES[name].clause),
                self.talker,
            )
            for name in self.progress.track(WATCHED, description="choosing latents")
        }

    def calibrations(self, known: Mapping[str, list[Item]]) -> dict[str, Calibration]:
        """Calibrate every monitor that has a document; return the calibrations by monitor."""
        demo = WatchedDemo(self.checkpoint, self.policies)
        found: dict[str, Calibration] = {}
        for family, prompts in self.prompts("calibration", self.sizes.calibrate).items():
            plans = [m.plan for m in demo.library.monitors.values() if family_of(m.name) == family]
            scorings = self.scored(prompts, plans)
            for plan in plans:
                name = watches(plan.name)
                pairs = labelled(name, prompts, scorings, self.talker)
                mine = [replace(scoring, item=item) for item, scoring in pairs]
                binding = demo.conditions.binding(plan.digest, "")
                words = chosen(RECIPES[name], known[name])
                found[plan.name] = calibrated(plan, mine, binding, words, self.talker)
                keep(calibration_card.to_artifact(found[plan.name]), self.artifacts)
        return found

    def scored(
        self, prompts: Sequence[Answered], plans: Sequence[MonitorPlan]
    ) -> Sequence[Scoring]:
        """Run the prompts with their answers; what they are labelled does not matter yet."""
        items = [Item(tuple(conversation(p.checks)), 0, p.answer, p.slice) for p in prompts]
        return score_items(
            self.talker.model,
            self.talker.tokenizer,  # pyright: ignore[reportArgumentType] -- its calls are untyped
            items,
            plans,
            progress=self.bar("calibrating", len(items)),
        )

    def gating(self, harm: Calibration) -> Gating:
        """Choose how `gated` steers and print what was compared."""
        coefficient = gating.amount(
            self.demo, lambda much, refused: self.say(f"gated: {refused:.3f} refused at {much:g}")
        )
        found = Gating(coefficient, gating.rate(harm))
        self.say(f"gated: chosen is {found}")
        return found

    def write(self, name: str, documents: Sequence[str]) -> None:
        """Write a file of documents."""
        written.write(self.policies, name, documents)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(text, highlight=False)

    def bar(self, description: str, total: int) -> Callable[[int], None]:
        """Show a bar; return what advances it."""
        task = self.progress.add_task(description, total=total)
        return lambda n: self.progress.advance(task, n)


def calibrated(
    plan: MonitorPlan,
    scorings: Sequence[Scoring],
    binding: Binding,
    fitted_on: Sequence[Item],
    talker: Talker,
) -> Calibration:
    """Return the calibration of a monitor, with a bag of words fitted on some items beside it."""
    found = beside(scorings, plan, fitted_on, talker)
    origin = CalibrationProvenance(found.source, unscored=found.unscored)
    return calibrate(plan.name, binding, found.samples, found.baselines, origin)


def family_of(monitor: str) -> str:
    """The family of the monitor that a document is of."""
    return next(family for family, names in FAMILIES.items() if watches(monitor) in names)


def watches(monitor: str) -> str:
    """Which of ``MONITORS`` a monitor's document watches for."""
    return monitor.removesuffix("-feature")


def keep(artifact: Artifact, folder: Path) -> None:
    """Write an artifact into a folder, in place of others of its kind and name."""
    kept = artifact.save(folder)
    mine = (artifact.card["kind"], artifact.card["name"])
    for path in find_artifacts(folder):
        card = read_artifact(path).card
        if path != kept and (card["kind"], card["name"]) == mine:
            path.unlink()
            path.with_suffix(".json").unlink()


def bars() -> Progress:
    """Return progress bars."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )


def main() -> None:
    """Make the monitors of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=HERE / "checkpoint")
    parser.add_argument("--out", type=Path, default=HERE / "policies")
    options = parser.parse_args()
    with bars() as progress:
        Maker(options.checkpoint, options.out, Sizes(), progress).make()


if __name__ == "__main__":
    main()
