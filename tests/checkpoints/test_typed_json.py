"""Typed JSON: every value comes back with its type, or is refused by name."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.typed_json import EnumValue, canonical_json, decode_state, encode_state
from relight.errors import DamagedFile, UnsupportedState


class Phase(enum.Enum):
    WARM_UP = 1
    DECAY = "decay"


class Level(enum.IntEnum):
    LOW = 1


_hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20)
    | st.sampled_from(Phase),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
_trees = st.recursive(
    _hashable
    | st.just(math.nan)
    | st.complex_numbers()
    | st.builds(TensorRef, st.text(min_size=1))
    | st.text(alphabet=st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(_hashable, max_size=4)
        | st.dictionaries(_hashable, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, 7))
        | st.dictionaries(st.text(), inner, max_size=3).map(lambda items: defaultdict(list, items))
        | st.dictionaries(st.integers(), st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Compare strictly: 1, 1.0 and True differ, 0.0 and -0.0 differ, and NaN equals itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (left == right and str(left) == str(right))
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, dict):
        kept = getattr(left, "default_factory", None) is getattr(right, "default_factory", None)
        return kept and same(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple, deque)):
        length = getattr(left, "maxlen", None) == getattr(right, "maxlen", None)
        return length and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return len(left) == len(right) and all(any(same(item, other) for other in right) for item in left)
    return bool(left == right)


@given(_trees)
def test_every_tree_comes_back_as_it_went_in(tree: Any) -> None:
    data = encode_state(tree)
    assert same(decode_state(data), tree)
    assert encode_state(decode_state(data)) == data


@given(st.dictionaries(_hashable, _trees, max_size=6), st.randoms())
def test_the_canonical_form_does_not_depend_on_the_order_of_a_dictionary(tree: dict[Any, Any], random: Any) -> None:
    items = list(tree.items())
    random.shuffle(items)
    assert canonical_json(encode_state(dict(items))) == canonical_json(encode_state(tree))


@pytest.mark.parametrize(
    ("left", "right"), [((1,), [1]), ({1: 2}, {"1": 2}), (1, 1.0), (1, True), ({1}, [1]), ("a", b"a")]
)
def test_the_canonical_form_distinguishes_types(left: Any, right: Any) -> None:
    assert canonical_json(encode_state(left)) != canonical_json(encode_state(right))


def test_values_that_json_has_stay_plain_json() -> None:
    tree = {"lr": 0.1, "steps": [1, 2], "on": True, "none": None, "name": "Ada ☃"}
    assert msgspec.json.decode(encode_state(tree)) == tree


def test_keys_that_look_like_tags_are_only_keys() -> None:
    for tree in ({"$tensor": "x"}, {"$": 1}, {"$unknown": [1]}, [{"$tuple": [1]}]):
        assert decode_state(encode_state(tree)) == tree


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**63, 2**64, -(2**200), 10**40, 2**40_000], ids=hex)
def test_integers_of_any_size_stay_exact(value: int) -> None:
    assert decode_state(encode_state({"state": value})) == {"state": value}


def test_python_and_numpy_generators_come_back_exactly() -> None:
    import random

    ours = random.Random(3)
    ours.gauss(0, 1)
    generator, legacy = np.random.default_rng(4), np.random.RandomState(5)
    generator.random(7)
    state = {"python": ours.getstate(), "numpy": generator.bit_generator.state, "legacy": legacy.get_state()}
    restored = decode_state(encode_state(state))
    theirs = random.Random()
    theirs.setstate(restored["python"])
    other = np.random.default_rng()
    other.bit_generator.state = restored["numpy"]
    old = np.random.RandomState()
    old.set_state(restored["legacy"])
    assert theirs.random() == ours.random()
    assert other.random() == generator.random()
    assert old.random_sample() == legacy.random_sample()


@pytest.mark.parametrize(
    "value",
    [np.float64(0.1), np.float32("nan"), np.int64(3), np.bool_(True), np.arange(6, dtype=">i2").reshape(2, 3),
     np.array(2.5), np.array([], dtype="c8"), np.complex128(1 - 2j)],
    ids=repr,
)  # fmt: skip
def test_numpy_values_keep_type_shape_and_bytes(value: Any) -> None:
    restored = decode_state(encode_state(value))
    assert type(restored) is type(value)
    assert restored.dtype == value.dtype.newbyteorder("=")
    assert np.array_equal(restored, value, equal_nan=True)


def test_an_enum_comes_back_as_the_member_of_its_loaded_class() -> None:
    assert decode_state(encode_state([Phase.DECAY, Level.LOW])) == [Phase.DECAY, Level.LOW]


def test_an_enum_of_a_class_that_is_not_loaded_is_kept_without_importing_it() -> None:
    data = b'{"$enum":["antigravity:Phase","UP"]}'
    value = decode_state(data)
    assert value == EnumValue("antigravity:Phase", "UP")
    assert encode_state(value) == data


@pytest.mark.parametrize("name", ["os:path", "builtins:exec", "os:environ", "sys:modules", "no_such_module:X"])
def test_an_enum_tag_reaches_nothing_but_enums(name: str) -> None:
    assert isinstance(decode_state(msgspec.json.encode({"$enum": [name, "x"]})), EnumValue)


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"optimizer": {"group": [object()]}}, "state['optimizer']['group'][0] is a builtins.object"),
        ({"scheduler": {"fn": len}}, "state['scheduler']['fn'] is a builtins.builtin_function_or_method"),
        ({3: lambda: 0}, "state[3] is a builtins.function"),
        ({object: 1}, "key <class 'object'> of state is a builtins.type"),
        ({"d": defaultdict(lambda: 1)}, "state['d'] is a defaultdict of"),
        ({"n": np.array([object()])}, "state['n'] is a numpy.ndarray"),
    ],
)
def test_a_value_that_cannot_be_represented_is_refused_with_the_name_of_its_owner(tree: Any, path: str) -> None:
    with pytest.raises(UnsupportedState) as refusal:
        encode_state(tree)
    assert path in str(refusal.value)


def test_a_state_that_contains_itself_is_refused() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(UnsupportedState, match="contains itself"):
        encode_state(tree)


def test_the_deepest_state_that_is_accepted_comes_back() -> None:
    for wrap in (lambda tree: {1: tree}, lambda tree: (tree,), lambda tree: [tree], lambda tree: {"a": tree}):
        tree: Any = 1
        for _ in range(100):
            tree = wrap(tree)
        data = encode_state(tree)
        assert decode_state(data) == tree
        assert canonical_json(data)
        with pytest.raises(UnsupportedState, match="nested more than"):
            encode_state(wrap(wrap(tree)))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nul", b'{"$tuple":3}', b'{"$nothing":1}', b'{"$set":[[1]]}', b'{"$bytes":"*"}', b'{"$int":"x"}',
     b'{"$float":"big"}', b'{"$complex":[1]}', b'{"$dict":[1]}', b'{"$dict":[[[],1]]}', b'{"$default_dict":["os",[]]}',
     b'{"$numpy":["O",[1],""]}', b'{"$numpy":["<f4",[2],"AAAA"]}', b'{"$deque":[[],"x"]}', b'{"$enum":3}',
     b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff\xfe", b'{"$text":"/w=="}'],
)  # fmt: skip
def test_anything_but_typed_json_gives_one_named_error(data: bytes) -> None:
    with pytest.raises(DamagedFile):
        decode_state(data)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,$tuplesdicin0123.', max_size=60).map(str.encode))
def test_garbage_gives_a_value_or_one_named_error(data: bytes) -> None:
    for read in (decode_state, canonical_json):
        try:
            read(data)
        except DamagedFile:
            pass
