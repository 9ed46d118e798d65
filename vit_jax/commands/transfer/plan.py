"""What the protocol of transfer runs: settings on a dev split, seeds of the best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.commands import point_queue
from vit_jax.commands.point_queue import Point
from vit_jax.commands.transfer import table
from vit_jax.commands.transfer.targets import Setting, Task

FILE, TABLE = "transfer.json", "transfer.md"
Row = Mapping[str, Any]


class Transfer(point_queue.Queue):
    """The runs of the protocol, and what they found.

    Attributes:
        about: What tables say of the whole.
    """

    FILE = FILE

    def __init__(
        self,
        tasks: Sequence[Task],
        workdir: Path,
        *,
        about: table.About,
        fixed: Sequence[str],
        retries: int,
        program: Sequence[str] = point_queue.PROGRAM,
    ):
        """Reads what earlier calls left.

        Args:
            tasks: Those whose data is there.
            workdir: The folder, which is there.
            about: What tables say of the whole.
            fixed: Flags of every run.
            retries: As `Queue`.
            program: As `Queue`.
        """
        self._tasks, self.about, self._fixed = tasks, about, fixed
        super().__init__(workdir, retries=retries, program=program)

    def total(self) -> int:
        """Returns how many runs there will be."""
        seeds = len(self.about.seeds)
        return sum(len(self.dev_points(one)) + seeds for one in self._tasks)

    def plan(self) -> list[Point]:
        """Returns the runs on the dev split, and those of tasks that have a setting."""
        found = []
        for one in self._tasks:
            found += self.dev_points(one)
            if chosen := self.chosen(one):
                found += self.test_points(one, chosen)
        return found

    def dev_points(self, one: Task) -> list[Point]:
        """Returns the runs that a setting is chosen by; none where there is one."""
        if len(one.settings) == 1:
            return []
        seed = self.about.seeds[0]
        return [
            self._point(one, setting, "dev", seed, one.part) for setting in one.settings
        ]

    def test_points(self, one: Task, setting: Setting) -> list[Point]:
        """Returns the runs on all of the training set, one a seed."""
        return [
            self._point(one, setting, "test", seed, one.whole)
            for seed in self.about.seeds
        ]

    def _point(
        self, one: Task, setting: Setting, split: str, seed: str, flags: Sequence[str]
    ) -> Point:
        dev = ("dev",) if split == "dev" else ()
        argument = ",".join([self.about.model, *one.words, *dev, *setting.words])
        values = {"task": one.name, "setting": setting.name, "on": split, "seed": seed}
        return Point(
            "_".join([one.name, split, setting.name, f"seed={seed}"]),
            values,
            [
                f"--config=finetune:{argument}",
                "--config.model.name=checkpoint",
                f"--config.init_from={self.about.checkpoint}",
                *self._fixed,
                *flags,
                *setting.flags,
                f"--config.seed={seed}",
            ],
        )

    def chosen(self, one: Task) -> Setting | None:
        """Returns the best setting on the dev split, the first of equal ones.

        None where runs are left, or all failed. A setting is out where a run failed.
        """
        if len(one.settings) == 1:
            return one.settings[0]
        group = [other for other in self._tasks if other.shared == one.shared]
        group = group if one.shared else [one]
        rows = [self.dev_rows(other) for other in group]
        if any(row["status"] not in ("done", "failed") for of in rows for row in of):
            return None
        means = [table.mean("dev", column) for column in zip(*rows, strict=True)]
        found = [mean for mean in means if mean is not None]
        return one.settings[means.index(max(found))] if found else None

    def dev_rows(self, one: Task) -> list[Row]:
        """Returns what is known of each run on the dev split, in their order."""
        points = self.dev_points(one)
        nothing: Row = point_queue.NEW | {"figures": {}}
        return [self.rows[p.name] if p.name in self.rows else nothing for p in points]

    def results(self) -> list[dict[str, Any]]:
        """Returns what is known of each task."""
        found = []
        for one in self._tasks:
            setting = self.chosen(one)
            points = [] if setting is None else self.test_points(one, setting)
            tests = [self.rows[p.name] for p in points if p.name in self.rows]
            names = [setting.name for setting in one.settings]
            found.append(
                table.result(
                    *(one.name, one.dataset, names if len(names) > 1 else []),
                    *(self.dev_rows(one), setting and setting.name, tests),
                    about=self.about,
                )
            )
        return found

    def record(self) -> dict[str, Any]:
        """Returns the results."""
        return table.record(self.results(), self.about)

    def pages(self) -> dict[str, str]:
        """Returns the tables."""
        return {TABLE: table.page(self.results(), self.about)}
