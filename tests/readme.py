"""The strategies of docs/strategies.md, as a reader would paste them into files."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "strategies.md"


def strategies():
    """Return name of the module -> code."""
    return dict(re.findall(r"`strategies/(\w+)\.py`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
