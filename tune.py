"""``python tune.py --num-samples 20``: which LoRA rank for which layer, and is it better than one for all?"""

import sys

from tuning.command import run

if __name__ == "__main__":
    sys.exit(run())
