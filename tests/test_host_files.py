"""Files that are there whole or not at all."""

import pytest

from vit_jax.host import files


@pytest.mark.parametrize("shared", [False, True])
def test_what_had_a_name_is_there_until_the_new_file_is_whole(tmp_path, shared):
    path = tmp_path / "found.json"
    files.write_whole(path, "old")
    with pytest.raises(KeyError), files.whole(path, shared=shared) as stream:
        stream.write(b"half")
        assert path.read_text() == "old"
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"
    with files.whole(path, shared=shared) as stream:
        stream.write(b"new")
    assert path.read_text() == "new"


def test_text_is_utf_8(tmp_path):
    files.write_whole(tmp_path / "text", "Käfer\n")
    assert (tmp_path / "text").read_bytes() == "Käfer\n".encode()
