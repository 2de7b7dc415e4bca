"""Patterns of an adapter's configuration that would be tried for ever are told from those that people write."""

import pytest

from analysis.audit.regexes import is_regex, takes_long


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w+)+!", r"(.*)*x", r"(a|a)*", "(a|b){20}", r"(\w)\1", ".*.*.*.*x", "(?:a|a)" * 20, "a?" * 30 + "a" * 30,
        "q|(x|xx)+y", "[^)]+[(]*.*.*",
    ],
)  # fmt: skip
def test_one_that_takes_a_name_long_is_known_before_it_is_tried(pattern):
    assert is_regex(pattern)
    assert takes_long(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj", r"layers\.(1|2)\..*v_proj", r"model\.layers\.\d+\..*(q|v)_proj", r"(.*\.)?attn",
        r"^(?!.*patch_embed).*(?:fc2|fc1|qkv|proj).*", r"layers\.[0-9]{1,2}\.(self_attn|mlp)\.[^.(*+]+",
        rf"h\.({'|'.join(map(str, range(80)))})\.(attn|mlp)\.c_(attn|fc|proj)",
        "|".join(rf"({number}|{number + 1})\.q_{number}" for number in range(200)), r"a\(b\)\*c\)+",
    ],
)  # fmt: skip
def test_one_that_people_write_is_tried(pattern):
    assert not takes_long(pattern)
