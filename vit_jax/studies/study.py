"""What a study is, and how two of its arms are compared."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Flags = tuple[str, ...]
Results = Mapping[str, Sequence[float]]  # the figure of each seed, by the arm's name

BEFORE, DEV, TEST = "before", "dev", "test"  # what a run is for
ONLY = "only"  # the setting of a study that chooses among none
# That of configs/cifar10.py:adam with 16 patches: a fourth of the tokens.
SMALL: Flags = ("--config.model.name=Ti/8", "--config.model.heads=2")
# In that recipe, for a model of another family: its sizes are those of its name.
OF_THE_NAME: Flags = (
    *(f"--config.model.{key}=0" for key in ("width", "depth", "mlp_width", "heads")),
    "--config.model.pool=token",
)
AT_THE_END: Flags = ("--config.eval_every=", "--config.save_every=")


class Verdict(NamedTuple):
    """What the rule says of the results.

    Attributes:
        holds: Whether what the rule asks for was found.
        text: What was found, in a few sentences.
    """

    holds: bool
    text: str


class Run(NamedTuple):
    """What is trained, or looked at.

    Attributes:
        config: The recipe, as --config takes it.
        flags: All that it has but for a seed.
        module: That is run on them, of those that print figures; "": what trains.
    """

    config: str
    flags: Flags
    module: str = ""


class Figure(NamedTuple):
    """A figure of the runs of an arm."""

    arm: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison of arms, each run with several seeds.

    In the flags of arms `{NAME}` is the workdir of the run `NAME` of `before`, or of
    the arm `NAME` with the same seed, which then runs first.

    Attributes:
        question: That it answers.
        rule: That decides; it is fixed before the first run.
        config: The recipe of every arm, as --config takes it.
        flags: Of every arm.
        arms: What sets each apart; a `Run` has none of `config` and `flags`.
        verdict: From the figures of all arms to what the rule says of them.
        figure: That arms are compared by.
        figures: What is compared where that is not this figure of every arm, by name;
            `verdict` has these names then.
        seeds: Of each arm.
        before: Runs that must be done before those of arms, by name. They have the
            first seed, and none of `flags`.
        settings: Of which each arm has its best, such as learning rates; the first
            seed is judged by `dev_figure`. One setting is taken as it is.
        own_settings: Those of arms that have others.
        dev: Flags of the runs that choose a setting.
        dev_figure: The larger, the better.
    """

    question: str
    rule: str
    config: str
    flags: Flags
    arms: Mapping[str, Flags | Run]
    verdict: Callable[[Results], Verdict]
    figure: str = "test/top1"
    figures: Mapping[str, Figure] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    before: Mapping[str, Run] = field(default_factory=dict)
    settings: Mapping[str, Flags] = field(default_factory=lambda: {ONLY: ()})
    own_settings: Mapping[str, Mapping[str, Flags]] = field(default_factory=dict)
    dev: Flags = ()
    dev_figure: str = "dev/top1"

    @property
    def compared(self) -> Flags:
        """What sets runs apart, and what the choice of a setting rests on."""
        sets = [
            one.flags if isinstance(one, Run) else one for one in self.arms.values()
        ]
        for arm in self.arms:
            sets += self.settings_of(arm).values()
        return tuple(flag for flags in (*sets, self.dev) for flag in flags)

    @property
    def rows(self) -> Mapping[str, Figure]:
        """What is compared, by name."""
        return self.figures or {arm: Figure(arm, self.figure) for arm in self.arms}

    def run_of(self, arm: str) -> Run:
        """Returns what an arm is, without a setting."""
        own = self.arms[arm]
        return own if isinstance(own, Run) else Run(self.config, (*self.flags, *own))

    def settings_of(self, arm: str) -> Mapping[str, Flags]:
        """Returns the settings that an arm has its best of."""
        own = self.own_settings
        return own[arm] if arm in own else self.settings

    def needs(self, arm: str) -> tuple[str, ...]:
        """Returns the arms whose runs an arm starts from or looks at."""
        flags = self.run_of(arm).flags
        return tuple(
            other for other in self.arms if any(f"{{{other}}}" in one for one in flags)
        )


def is_share(figure: str) -> bool:
    """Returns whether a figure of this name is shown in percent."""
    return figure.endswith(("top1", "shot", "accuracy", "majority", "share"))


class Margin(NamedTuple):
    """How much larger one arm's mean is than another's.

    Attributes:
        mean: The difference of the means.
        pooled: The pooled deviation of both over their seeds (n - 1).
    """

    mean: float
    pooled: float

    @property
    def counts(self) -> bool:
        """Whether it is larger than twice the pooled deviation."""
        return self.mean > 2 * self.pooled

    @property
    def against(self) -> bool:
        """Whether the other arm's mean is larger by more than that."""
        return -self.mean > 2 * self.pooled

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} points (deviation {100 * self.pooled:.2f})"


def margin(ours: Sequence[float], theirs: Sequence[float]) -> Margin:
    """Returns the margin of one arm over another, of the figures of their seeds."""
    pooled = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    return Margin(statistics.fmean(ours) - statistics.fmean(theirs), pooled)


def better(ours: str, theirs: str) -> Callable[[Results], Verdict]:
    """Returns the verdict that asks whether one arm is better than another."""

    def verdict(results: Results) -> Verdict:
        found = margin(results[ours], results[theirs])
        return Verdict(found.counts, f"{ours} over {theirs}: {found}.")

    return verdict


def rates(*values: str) -> dict[str, Flags]:
    """Returns learning rates as `Study.settings`."""
    return {f"lr {rate}": (f"--config.optimizer.lr={rate}",) for rate in values}


def judged_on(split: str) -> Flags:
    """Returns `Study.dev`: a split in the place of the test images."""
    return (
        "--config.evals.test=none",
        "--config.evals.dev=classify",
        f"--config.evals.dev.split={split}",
    )
