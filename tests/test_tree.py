"""Names of leaves and tables over them."""

import pytest

from vit_jax import errors, tree

TREE = {"blocks": {"attn": {"kernel": 1}, "norm": [2, 3]}, "cls": 4}


def test_names_invert_nesting():
    named = dict(tree.named_leaves(TREE))
    assert named == {
        "blocks/attn/kernel": 1,
        "blocks/norm/0": 2,
        "blocks/norm/1": 3,
        "cls": 4,
    }
    assert dict(tree.named_leaves(tree.from_named(named))) == named


def test_map_named_keeps_structure():
    mapped = tree.map_named(lambda name, x, y: (name, x + y), TREE, TREE)
    assert mapped["blocks"]["norm"][1] == ("blocks/norm/1", 6)


def test_first_match_wins_and_no_match_is_an_error():
    rules = ((r"kernel$", 1), (r"attn", 2))
    assert tree.first_match(rules, "attn/kernel") == 1
    assert tree.first_match(rules, "attn/bias") == 2
    with pytest.raises(ValueError, match="no rule matches leaf 'head/bias'"):
        tree.first_match(rules, "head/bias")


def test_lookup_names_the_nearest():
    with pytest.raises(errors.UserError, match='Did you mean "cosine"'):
        errors.lookup({"cosine": 1, "linear": 2}, "cosin", "schedule")


def test_what_others_raise_is_told_in_one_short_line():
    assert (
        errors.reason(OSError("\n no such bucket\nTraceback ...")) == "no such bucket"
    )
    assert errors.reason(EOFError()) == "EOFError"
    assert len(errors.reason(ValueError("x" * 9999))) == 300
