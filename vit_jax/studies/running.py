"""The runs of a study: which there are, in which order, and what they found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.commands import point_queue
from vit_jax.commands.point_queue import Point
from vit_jax.settings import documents
from vit_jax.studies import report
from vit_jax.studies.study import BEFORE, DEV, TEST, Flags, Run, Study

FILE, LINES = "study.json", "results.jsonl"


class Running(point_queue.Queue):
    """The runs of a study in a folder.

    What comes before is run first; then each arm's settings; then, with the best one
    of each arm, the seeds. An arm that needs others waits for their runs.
    """

    FILE = FILE

    def __init__(
        self,
        name: str,
        study: Study,
        workdir: Path,
        *,
        fixed: Sequence[str],
        retries: int,
        program: Sequence[str] = point_queue.PROGRAM,
    ):
        """Reads what earlier calls left.

        Args:
            name: Of the study.
            study: What is compared.
            workdir: As `Queue`; flags of arms that name runs before them hold it.
            fixed: Flags of every run, after all others.
            retries: As `Queue`.
            program: As `Queue`.

        Raises:
            UserError: The folder is another study's.
        """
        self._name, self._study, self._fixed = name, study, tuple(fixed)
        self._folder = workdir
        super().__init__(workdir, retries=retries, program=program)
        if (path := workdir / FILE).exists():
            known = documents.read_object(path)
            if "study" in known and known["study"] != name:
                raise errors.UserError(
                    f"{workdir} has the study {known['study']!r}; want another "
                    f"--workdir for {name!r}"
                )

    def plan(self) -> list[Point]:
        """Returns the runs that are known so far."""
        before = self.before_points()
        if not all(self._done(point.name) for point in before):
            return before
        found = list(before)
        for arm in self._study.arms:
            found += self._ready(arm, self.dev_points(arm))
        for arm in self._study.arms:
            if setting := self.chosen(arm):
                found += self._ready(arm, self.test_points(arm, setting))
        return found

    def total(self) -> int:
        """Returns how many runs there will be."""
        study = self._study
        counts = [len(study.settings_of(arm)) for arm in study.arms]
        of_settings = sum(count for count in counts if count > 1)
        return len(study.before) + of_settings + len(counts) * len(study.seeds)

    def _ready(self, arm: str, points: list[Point]) -> list[Point]:
        """Those whose runs of other arms are done."""
        return [
            point
            for point in points
            if all(
                (setting := self.chosen(other)) is not None
                and self._done(
                    self._name_of(TEST, other, setting, int(point.values["seed"]))
                )
                for other in self._study.needs(arm)
            )
        ]

    def before_points(self) -> list[Point]:
        """Returns the runs that arms start from."""
        seed = self._study.seeds[0]
        return [
            self._point(
                _folder_name(BEFORE, name, "", seed),
                run,
                {"run": BEFORE, "arm": name, "setting": ""},
                seed,
                {},
            )
            for name, run in self._study.before.items()
        ]

    def dev_points(self, arm: str) -> list[Point]:
        """Returns the runs that choose an arm's setting; none where it has one."""
        study, settings = self._study, self._study.settings_of(arm)
        if len(settings) == 1:
            return []
        return [
            self._arm_point(DEV, arm, setting, study.seeds[0], study.dev)
            for setting in settings
        ]

    def test_points(self, arm: str, setting: str) -> list[Point]:
        """Returns the runs of an arm with a setting, one a seed."""
        return [
            self._arm_point(TEST, arm, setting, seed, ()) for seed in self._study.seeds
        ]

    def _arm_point(
        self, of: str, arm: str, setting: str, seed: int, flags: Flags
    ) -> Point:
        run = self._study.run_of(arm)
        words = (*run.flags, *self._study.settings_of(arm)[setting], *flags)
        places = {
            other: self._name_of(TEST, other, self._best(other), seed)
            for other in self._study.needs(arm)
        }
        return self._point(
            self._name_of(of, arm, setting, seed),
            run._replace(flags=words),
            {"run": of, "arm": arm, "setting": self._choice(arm, setting)},
            seed,
            places,
        )

    def _best(self, arm: str) -> str:
        """The setting of an arm that others need: none of them runs before it is."""
        return self.chosen(arm) or next(iter(self._study.settings_of(arm)))

    def _choice(self, arm: str, setting: str) -> str:
        return setting if len(self._study.settings_of(arm)) > 1 else ""

    def _name_of(self, of: str, arm: str, setting: str, seed: int) -> str:
        """A run's folder; it tells the settings of the arms that it needs, too."""
        settings, left = [self._choice(arm, setting)], list(self._study.needs(arm))
        while left:
            other = left.pop(0)
            settings.append(self._choice(other, self._best(other)))
            left += self._study.needs(other)
        return _folder_name(of, arm, "_".join(filter(None, settings)), seed)

    def _point(
        self,
        name: str,
        run: Run,
        values: Mapping[str, str],
        seed: int,
        places: Mapping[str, str],
    ) -> Point:
        first = self._study.seeds[0]
        before = {
            other: _folder_name(BEFORE, other, "", first)
            for other in self._study.before
        }
        folders = {
            other: str(self._folder / place)
            for other, place in {**before, **places}.items()
        }
        return Point(
            name,
            {**values, "seed": str(seed)},
            [
                f"--config={run.config}",
                *(_placed(word, folders) for word in run.flags),
                *self._fixed,
                f"--config.seed={seed}",
            ],
            run.module,
        )

    def _is(self, point: Point, *statuses: str) -> bool:
        return point.name in self.rows and self.rows[point.name]["status"] in statuses

    def _done(self, name: str) -> bool:
        return name in self.rows and self.rows[name]["status"] == "done"

    def chosen(self, arm: str) -> str | None:
        """Returns an arm's best setting, the first of equal ones.

        None where runs are left, or all failed. A setting is out where its run failed.
        """
        settings = list(self._study.settings_of(arm))
        points = self.dev_points(arm)
        if not points:
            return settings[0]
        if not all(self._is(point, "done", "failed") for point in points):
            return None
        known = {
            setting: figure
            for setting, point in zip(settings, points, strict=True)
            if self._is(point, "done")
            and (figure := report.figure(self.rows[point.name], self._study.dev_figure))
            is not None
        }
        return max(known, key=lambda one: known[one]) if known else None

    def known(self) -> list[report.Row]:
        """Returns what is known of each run of the study, as it is defined now.

        The folder may have others, of an older version.
        """
        return [
            {**self.rows[point.name], "values": point.values}
            for point in self.plan()
            if point.name in self.rows
        ]

    def results(self) -> report.Found:
        """Returns what is known of the study."""
        chosen = {arm: self.chosen(arm) for arm in self._study.arms}
        return report.found(self._study, self.known(), chosen)

    def record(self) -> dict[str, Any]:
        """Returns the verdict and what it is of."""
        return {"study": self._name, **self.results()._asdict()}

    def pages(self) -> dict[str, str]:
        """Returns a line of JSON of each run, and the table."""
        rows = self.known()
        return {
            LINES: report.lines(rows),
            f"{self._name}.md": report.page(
                self._name, self._study, rows, self.results(), self._fixed
            ),
        }


def _folder_name(of: str, name: str, setting: str, seed: int) -> str:
    parts = (of, name, setting, f"seed={seed}")
    return point_queue.folder_name("_".join(filter(None, parts)))


def _placed(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    return word
