"""The examples are tested beside the trainer, with the trainer's own tiny model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engines" / "trl"))  # `import support`
