"""The strategies of the README, as a reader would paste them into files."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def strategies():
    """Return name of the module -> code."""
    return dict(re.findall(r"`strategies/(\w+)\.py`:\n\n```python\n(.*?)```", README.read_text(), re.DOTALL))
