"""``python tune.py --num-samples 20``: which LoRA rank for which layer, and is it better than one for all?"""

import sys

from tuning.process import leave_at_once, use_few_arenas

if __name__ == "__main__":
    leave_at_once()
    use_few_arenas()
    from tuning.cli import main  # seconds of imports, in which somebody may change their mind

    sys.exit(main())
