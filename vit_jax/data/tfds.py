"""Datasets that TFDS prepared, read without TensorFlow or tensorflow_datasets.

A prepared dataset is a folder with `dataset_info.json` (splits, shards, counts),
`features.json` (what a record holds) and shards of `tf.train.Example` records in
ArrayRecord or TFRecord files.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, example, records, sources, tfds_features
from vit_jax.data.splits import Range
from vit_jax.settings import documents, naming

_ANY = naming.Columns()
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's shards and the number of records in each."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    num_bytes: int  # 0: not recorded


@dataclasses.dataclass(frozen=True)
class Info:
    """What the two JSON files of a prepared dataset say."""

    directory: Path
    name: str
    format: str  # key of records.FORMATS
    splits: dict[str, Split]
    image: tfds_features.Picture
    label: tfds_features.Label
    label_names: tuple[str, ...] | None

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return {name: sum(split.lengths) for name, split in self.splits.items()}

    @property
    def num_classes(self) -> int:
        """The number of classes, 0 where the files do not say it."""
        return self.label.num_classes

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several labels."""
        return self.label.kind not in ("class", "numbers")

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers and no classes."""
        return self.label.kind == "numbers"

    def open(self, ranges: Sequence[Range]) -> "TfdsSource":
        """Opens the examples of ranges of splits; see `TfdsSource`."""
        return TfdsSource(self, ranges)


def read_info(directory: Path, columns: naming.Columns = _ANY) -> Info:
    """Reads the description of the prepared dataset in `directory`.

    Args:
        directory: Of one version.
        columns: Which features are read, and a file with the names of the classes.

    Raises:
        errors.UserError: files are missing or damaged, the format is not one of
            `records.FORMATS`, or there is no image with a label.
    """
    info = _read_json(directory / "dataset_info.json")
    features_path = directory / "features.json"
    features = _read_json(features_path)
    try:
        name = info["name"]
        # Before TFDS 4 nothing said so: everything was TFRecord.
        form = info["fileFormat"] if "fileFormat" in info else "tfrecord"
        if form not in records.FORMATS:
            raise errors.UserError(
                f"{directory} holds {form!r} files; readable: "
                f"{', '.join(records.FORMATS)}. Prepare it again with "
                "download_and_prepare(file_format='array_record')."
            )
        table = {
            split["name"]: _read_split(directory, name, form, split)
            for split in info["splits"]
        }
        features = features["featuresDict"]["features"]
        image, label = tfds_features.choose(features, info, features_path, columns)
        return Info(
            directory=directory,
            name=name,
            format=form,
            splits=table,
            image=image,
            label=label,
            label_names=_read_names(directory, label, columns.names),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.UserError(
            f"{directory}: dataset_info.json or features.json is not as TFDS writes it "
            f"({type(error).__name__}: {error}). Prepare the dataset again."
        ) from error


def opened(directory: Path, columns: naming.Columns) -> Any:
    """Returns the dataset in `directory`, TFDS's own reader's where ours will not do.

    Args:
        directory: Of one version.
        columns: As for `read_info`.

    Raises:
        errors.UserError: as `read_info`, or what TFDS's reader cannot do either.
    """
    try:
        return read_info(directory, columns)
    except tfds_features.Unread as error:
        if not columns:
            raise
        from vit_jax.data.forms import library

        return library.open_directory(
            directory, columns, directory.parent.name, str(error)
        )


def counts(directory: Path) -> dict[str, int]:
    """Returns the number of examples of each split, whatever its examples are.

    Raises:
        errors.UserError: as `read_info`, of its dataset_info.json.
    """
    splits = _read_json(directory / "dataset_info.json")["splits"]
    return {one["name"]: sum(map(int, one["shardLengths"])) for one in splits}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise errors.UserError(
            f"{path} is missing; a dataset that TFDS prepared has one"
        )
    found = documents.read(path)
    if not isinstance(found, dict):
        raise errors.UserError(
            f"{path} is not as TFDS writes it: its JSON is {documents.kind(found)}. "
            "Prepare the dataset again."
        )
    return found


def _read_split(directory: Path, dataset: str, form: str, split: dict) -> Split:
    lengths = tuple(int(length) for length in split["shardLengths"])
    template = _TEMPLATE
    if "filepathTemplate" in split:
        template = split["filepathTemplate"].removeprefix("{DATA_DIR}/")
    total = len(lengths)
    paths = []
    for shard in range(total):
        fields = {
            "{DATASET}": dataset,
            "{SPLIT}": split["name"],
            "{FILEFORMAT}": form,
            "{SHARD_X_OF_Y}": f"{shard:05d}-of-{total:05d}",
            "{SHARD_INDEX}": f"{shard:05d}",
            "{NUM_SHARDS}": f"{total:05d}",
        }
        name = template
        for field, value in fields.items():
            name = name.replace(field, value)
        if "/" in name or name.startswith("."):
            raise errors.UserError(
                f"{directory}/dataset_info.json: file name {template!r} of split "
                f"{split['name']!r} leaves the dataset's folder"
            )
        paths.append(directory / name)
    num_bytes = int(split["numBytes"]) if "numBytes" in split else 0
    return Split(tuple(paths), lengths, num_bytes)


def _read_names(
    directory: Path, label: tfds_features.Label, given: str
) -> tuple[str, ...] | None:
    path = Path(given) if given else directory / f"{label.feature}.labels.txt"
    if given:
        from vit_jax.data.forms import labelling

        names = labelling.read_names(given)
    elif path.is_file():
        names = tuple(path.read_text().splitlines())
    else:
        return None
    if label.num_classes and len(names) != label.num_classes:
        raise errors.UserError(
            f"{path} names {len(names)} classes, features.json has {label.num_classes}"
        )
    return names


class TfdsSource:
    """Examples of a prepared dataset: image and an int or a multi-hot label."""

    def __init__(self, info: Info, ranges: Sequence[Range]):
        """Opens the shards of the splits in `ranges`.

        Raises:
            errors.UserError: a shard is missing or truncated.
        """
        self._info = info
        self._ranges = sources.Ranges(ranges)
        self._files = {
            name: _open_split(info, info.splits[name])
            for name in dict.fromkeys(part.split for part in ranges)
        }
        self._rule: Any = None
        wanted = [info.image.feature, info.label.feature]
        if info.label.feature.startswith(naming.RULE):
            from vit_jax.data import label_rules

            self._rule = label_rules.named(info.label.feature)
            wanted += self._rule.features
        self._names = frozenset(wanted)
        self.num_classes = info.label.num_classes
        self.label_names = info.label_names
        self.image_shape = info.image.shape

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> sources.Example:
        """Returns example `index`.

        Raises:
            decode.BadImage: its record is damaged.
        """
        split, at = self._ranges.locate(index)
        try:
            record = self._files[split].read(at)
            features = example.parse(record, self._names)
            image = self._info.image.read(features[self._info.image.feature])
        except (records.DamagedRecord, example.MalformedExample) as error:
            raise decode.BadImage(f"a damaged record ({error})") from error
        except (KeyError, IndexError) as error:
            raise decode.BadImage("a record without an image") from error
        if self._rule is None:
            return {"image": image, "label": self._label(features, index)}
        return self._ruled(image, features, index)

    def _ruled(
        self, image: Any, features: dict[str, example.Value], index: int
    ) -> sources.Example:
        from vit_jax.data import label_rules

        if self._rule.brightest != 255:
            image = label_rules.bright(image, self._rule.brightest)
        label = label_rules.label(self._rule, features, self.name(index))
        return {"image": image, "label": label}

    def _label(self, features: dict[str, example.Value], index: int) -> Any:
        label = self._info.label
        values = features[label.feature] if label.feature in features else []
        if label.kind == "class":
            # An empty list is how the format leaves out a default of 0 in some writers;
            # TFDS never writes one.
            if len(values) != 1:
                raise errors.UserError(
                    f"{self.name(index)}: {label.feature!r} holds {len(values)} values;"
                    " wanted one class"
                )
            return int(values[0])
        if label.kind in ("vector", "numbers"):
            return np.asarray(values, np.float32)
        hot = np.zeros(label.num_classes, np.float32)
        for value in values:
            if not 0 <= value < label.num_classes:
                raise errors.UserError(
                    f"{self.name(index)}: label {value} is outside the classes "
                    f"0..{label.num_classes - 1}"
                )
            hot[value] = 1
        return hot

    def text(self, index: int, feature: str) -> str:
        """Returns a feature of an example that is one text.

        Raises:
            decode.BadImage: its record is damaged, or has none.
        """
        split, at = self._ranges.locate(index)
        try:
            record = self._files[split].read(at)
            (value,) = example.parse(record, frozenset({feature}))[feature]
            return value.decode()
        except (records.DamagedRecord, example.MalformedExample) as error:
            raise decode.BadImage(f"a damaged record ({error})") from error
        except (KeyError, ValueError, AttributeError) as error:
            raise decode.BadImage(f"a record without a text {feature!r}") from error

    def name(self, index: int) -> str:
        """Returns "shard file:record", for reports."""
        split, at = self._ranges.locate(index)
        return self._files[split].name(at)


def _open_split(info: Info, split: Split) -> records.RecordFiles:
    for path in split.paths:
        if path.exists() and not path.is_file():  # a pipe, of which a read never ends
            raise errors.UserError(f"{path} is no plain file; want records")
    files = records.RecordFiles(info.format, split.paths, split.lengths)
    if info.format == "tfrecord" and split.num_bytes:
        # 16 bytes of framing a record: sizes that do not add up mean a damaged shard,
        # so look for it now (milliseconds) rather than in the middle of a run.
        size = sum(path.stat().st_size for path in split.paths)
        if size != split.num_bytes + 16 * len(files):
            files.check()
    return files
