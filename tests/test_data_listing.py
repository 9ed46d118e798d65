"""The kept listing of a folder: it is what a fresh one is, or it is made again."""

import hashlib
import os

import pytest

from vit_jax.data import folder, names, walking
from vit_jax.host import kept

FILES = ("train/ant/1.jpg", "train/ant/a/b/2.png", "train/bee/3.jpg", "val/ant/4.jpg")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder whose listing is kept, though small and written just now."""
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "FEWEST", 0)
    monkeypatch.setattr(kept, "SETTLED", -(10**12))
    walking.tell_once.cache_clear()
    for name in (*FILES, "train/bee/note.txt", "README.md"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"")
    return tmp_path / "data"


def listed(root):
    """Everything that there is to know of a folder, its messages too."""
    found = folder.Folder(root)
    files = {
        split: [found.file(split, k) for k in range(count)]
        for split, count in found.counts().items()
    }
    return files, found.class_names, found._layout.said


def fresh(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_read", lambda *args: None)
        return listed(root)


CHANGES = {
    "a file more": lambda r: (r / "train/ant/a/b/5.jpg").write_bytes(b""),
    "a file less": lambda r: (r / "train/bee/note.txt").unlink(),
    "a file renamed": lambda r: (r / "train/ant/a/b/2.png").rename(r / "val/ant/2.png"),
    "another suffix": lambda r: (r / "val/ant/4.jpg").rename(r / "val/ant/4.JPEG"),
    "a folder more": lambda r: (r / "train/ant/a").rename(r / "train/bee/a"),
    "a folder renamed": lambda r: (r / "train/ant/a").rename(r / "train/ant/z"),
    "a link to a folder": lambda r: (r / "val/bee").symlink_to(r / "train/bee"),
    "a file beside the splits": lambda r: (r / "LICENSE").write_bytes(b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_listing_after_a_change_is_a_fresh_one(change, root, monkeypatch):
    before = listed(root)
    with monkeypatch.context() as patch:
        patch.setattr(walking.Walk, "branches", None)  # nothing is listed
        assert listed(root) == before
    CHANGES[change](root)
    assert listed(root) == fresh(root, monkeypatch) != before
    assert listed(root) == fresh(root, monkeypatch)


def test_what_a_file_holds_is_no_part_of_it(root, monkeypatch):
    before = listed(root)
    (root / "train/bee/3.jpg").write_bytes(b"another picture")
    monkeypatch.setattr(walking.Walk, "branches", None)
    assert listed(root) == before


def test_a_folder_whose_time_was_set_back_is_listed_again(root, monkeypatch):
    """As tar does it, which unpacks more into a folder and gives it its old time."""
    place = root / "train/bee"
    os.utime(place, ns=(10**18, 10**18))
    before = listed(root)
    (place / "6.jpg").write_bytes(b"")
    os.utime(place, ns=(10**18, 10**18))
    assert listed(root) == fresh(root, monkeypatch) != before


def test_a_folder_changed_just_now_is_not_kept(root, monkeypatch):
    monkeypatch.setattr(kept, "SETTLED", 2 * 10**9)
    listed(root)
    assert not folder._place(root).exists()


def test_a_damaged_listing_never_gives_wrong_files(root, caplog):
    wanted = listed(root)
    place = folder._place(root)
    whole = place.read_bytes()
    for at in range(0, len(whole), 101):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert listed(root) == wanted
    place.write_bytes(whole[:-30])
    caplog.clear()
    assert listed(root) == wanted
    assert len(caplog.records) == 1 and "made again" in caplog.text


def test_a_listing_of_another_folder_is_not_read(root, tmp_path, monkeypatch):
    listed(root)
    other = tmp_path / "other"
    (other / "x").mkdir(parents=True)
    (other / "x" / "1.jpg").write_bytes(b"")
    os.replace(folder._place(root), folder._place(other))
    assert listed(other) == fresh(other, monkeypatch)
    kept.save(folder._place(other), {"version": 1}, {})
    assert listed(other) == fresh(other, monkeypatch)


def test_a_cache_that_cannot_be_written_is_one_line(root, monkeypatch, caplog):
    monkeypatch.setenv("VIT_JAX_CACHE", "/proc/none")
    assert listed(root) == listed(root)
    assert sum("is not kept" in one.message for one in caplog.records) == 1


@pytest.mark.parametrize("bits", [64, 1])
def test_names_are_in_the_order_of_their_hashes_then_their_own(bits, monkeypatch):
    def digest(name):
        data = name.encode("utf-8", "surrogateescape")
        whole = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        return (whole >> 64 - bits).to_bytes(8, "big")

    monkeypatch.setattr(names, "_digest", digest)
    folders = {"b/": ["é.jpg", "1.jpg"], "a/": [], "a/x/": ["\udcff.png", "2.jpg", "0"]}
    branches = [
        names.Branch(prefix, [], names.packed(found), len(found), [], 0)
        for prefix, found in folders.items()
    ]
    found = names.Names.of(branches)
    expected = [prefix + name for prefix, some in folders.items() for name in some]
    assert list(found) == sorted(expected, key=lambda name: (digest(name), name))
    again = names.Names.read(found.prefixes, found.arrays())
    assert list(again) == list(found)
