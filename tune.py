"""``python tune.py --num-samples 20``: which LoRA rank for which layer, and is it better than one for all?"""

import sys

from tuning.lifecycle import process

if __name__ == "__main__":
    process.leave_at_once()
    process.use_few_arenas()
    process.collect_no_garbage()
    process.count_from_its_start()
    from tuning.cli import main  # seconds of imports, in which somebody may change their mind

    status = main()
    process.end_without_collecting()
    sys.exit(status)
