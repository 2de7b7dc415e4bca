"""Rows end to end: where they lie, and what they are to the model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo import built
from trainables.data.splits import IGNORED, Example
from trainables.engine.sequence_packing import arrange
from trainables.models.probes import joining

WIDE = 1000
FIRST, SECOND, THIRD = (
    Example((11, 12, 13, 14), (IGNORED, 12, 13, 14)),
    Example((21, 22), (21, 22)),
    Example((31, 32), (IGNORED, 32)),
)


def test_rows_lie_in_as_few_lanes_as_it_takes_to_pad_little():
    lanes = arrange([[4, 2, 2], [3, 1, 4]], WIDE, join=True)
    # the four tokens of the longest row fill a lane; two lanes of four hold all eight of each trial
    assert (lanes.per_trial, lanes.length, lanes.joined) == (2, 4, True)
    assert lanes.starts == ((0, 0), (1, 0), (1, 2), (3, 0), (3, 3), (2, 0))


@pytest.mark.parametrize(
    ("lengths", "width", "join"),
    [
        ([[4, 2, 2], [3, 1, 4]], WIDE, False),  # the model does not keep rows apart
        ([[4, 4, 4], [4, 4, 3]], WIDE, True),  # there is nothing to gain
        ([[5, 3, 3, 5]], 1, True),  # two lanes of eight have a fifth less places, and two thirds more to compare
    ],
)
def test_rows_are_padded_where_joining_them_gains_nothing(lengths, width, join):
    lanes = arrange(lengths, width, join)
    rows = len(lengths[0])
    assert (lanes.per_trial, lanes.length, lanes.joined) == (rows, max(map(max, lengths)), False)
    assert lanes.starts == tuple((row, 0) for row in range(rows * len(lengths)))


def test_a_lane_is_tokens_what_is_learned_and_positions_that_begin_anew():
    lanes = arrange([[4, 2, 2]], WIDE, join=True)
    inputs = lanes.inputs([FIRST, SECOND, THIRD], pad_id=9)
    assert inputs.model["input_ids"].tolist() == [[11, 12, 13, 14], [21, 22, 31, 32]]
    assert inputs.model["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    # nothing is learned at the first token of a row: what stands before it in the lane is not its text
    assert inputs.targets.tolist() == [12, 13, 14, 22, 32]
    assert inputs.places.tolist() == [0, 1, 2, 4, 6]
    assert inputs.owners.tolist() == [0, 0, 0, 1, 2]


def test_padded_rows_need_no_positions():
    lanes = arrange([[4, 2, 2]], WIDE, join=False)
    inputs = lanes.inputs([FIRST, SECOND, THIRD], pad_id=9)
    assert inputs.model.keys() == {"input_ids"}
    assert inputs.model["input_ids"].tolist() == [[11, 12, 13, 14], [21, 22, 9, 9], [31, 32, 9, 9]]
    assert inputs.targets.tolist() == [12, 13, 14, 22, 32]
    assert inputs.places.tolist() == [0, 1, 2, 4, 8]


def test_a_place_knows_where_its_token_would_be_in_a_trials_own_padding():
    lanes = arrange([[4, 2, 2], [3, 1, 4]], WIDE, join=True)
    assert lanes.sources.tolist() == [[0, 1, 2, 3, 4, 5, 8, 9], [8, 9, 10, 11, 0, 1, 2, 4]]


def test_what_is_known_of_each_row_is_spread_over_the_lanes():
    lanes = arrange([[4, 2], [2, 1]], WIDE, join=True)
    rows = [torch.full((length, 1), float(number)) for number, length in enumerate((4, 2, 2, 1), 1)]
    assert lanes.spread(rows).squeeze(-1).tolist() == [[1, 1, 1, 1, 2, 2], [3, 3, 4, 0, 0, 0]]


@given(
    st.integers(1, 6).flatmap(
        lambda rows: st.lists(st.lists(st.integers(1, 40), min_size=rows, max_size=rows), min_size=1, max_size=4)
    ),
    st.integers(1, 64),
)
def test_rows_never_overlap_and_never_cost_more_places_than_padding(lengths, width):
    lanes = arrange(lengths, width, join=True)
    taken = torch.zeros(len(lengths) * lanes.per_trial, lanes.length, dtype=torch.long)
    flat = [(trial, length) for trial, trial_lengths in enumerate(lengths) for length in trial_lengths]
    for (trial, length), (lane, start) in zip(flat, lanes.starts, strict=True):
        assert lane // lanes.per_trial == trial
        assert start + length <= lanes.length
        taken[lane, start : start + length] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(map(sum, lengths))
    assert lanes.per_trial * lanes.length <= len(lengths[0]) * max(map(max, lengths))


def test_the_promised_architectures_keep_joined_rows_apart(model):
    model.config.use_cache = False  # as wherever trials train; with a cache Transformers does not look at positions
    assert joining(model) == "positions"


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("bloom", None),  # takes no positions
        ("mamba", None),  # a state goes from token to token
        ("opt", "mask"),  # takes positions, and lets rows see each other
        ("falcon", "mask"),
    ],
)
def test_a_model_that_does_not_is_found_out(kind, way):
    model = built(kind)
    model.config.use_cache = False
    assert joining(model) == way


def test_a_mask_has_each_position_see_its_own_row_up_to_itself():
    lanes = arrange([[3, 2, 1]], WIDE, join=True)
    assert lanes.starts == ((0, 0), (1, 0), (1, 2))
    first, second = lanes.mask[:, 0].int().tolist()
    assert first == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert second == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
