"""The page about the code is about this code."""

import re

from tests import architecture


def test_the_tree_has_every_module_with_its_first_line():
    _, written, _ = architecture.split(architecture.PAGE.read_text())
    assert written == architecture.tree(), "python -m tests.architecture writes it anew"


def test_every_file_that_the_page_names_is_there():
    named = re.findall(r"`((?:strategies|trainables|tuning|analysis|tests)/[\w/]+\.py)`", architecture.PAGE.read_text())
    assert named
    assert not [name for name in named if not (architecture.ROOT / name).is_file()]
