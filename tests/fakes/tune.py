"""``tune.py`` whose trials train nothing, without pictures, and without Ray's dashboard, which takes long to start.

For tests that start, stop and kill a real process.
"""

import functools
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # as of ``tune.py`` itself; this folder has names of libraries

if __name__ == "__main__":
    import pytest
    import ray

    from tests.fakes import ray_tune
    from tests.fakes.hosts import FakeHosts
    from tuning.cluster import hosting

    hosting.Hosts = FakeHosts  # type: ignore[misc]
    ray_tune.draw_nothing(pytest.MonkeyPatch())
    ray.init = functools.partial(ray.init, include_dashboard=False)
    runpy.run_path(str(ROOT / "tune.py"), run_name="__main__")
