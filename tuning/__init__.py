"""The search: plan, space, Ray Tune, Optuna, MLflow, and what comes back.

``from tuning import SearchPlan, search, resume, SearchResult, SearchObserver, SearchStopped`` is all of its public API.
Each name is imported when it is first asked for: Ray and torch take seconds.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from tuning.lifecycle.process import quieten_ray

if TYPE_CHECKING:
    from tuning.observer import SearchObserver
    from tuning.pipeline import search
    from tuning.plan.search_plan import SearchPlan
    from tuning.resuming import resume
    from tuning.search_result import SearchResult, SearchStopped

__all__ = ["SearchObserver", "SearchPlan", "SearchResult", "SearchStopped", "resume", "search"]

WHERE = {
    "SearchObserver": "tuning.observer",
    "SearchPlan": "tuning.plan.search_plan",
    "SearchResult": "tuning.search_result",
    "SearchStopped": "tuning.search_result",
    "resume": "tuning.resuming",
    "search": "tuning.pipeline",
}
logging.getLogger(__name__).addHandler(logging.NullHandler())  # where nobody listens, warnings would go to a terminal
quieten_ray()


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    """Return what there is to import."""
    return sorted({*globals(), *__all__})
