"""What all tests share."""

import os

# The command line restarts Python to tune it; a test process must not be replaced.
os.environ["PASSL_SOT_TUNED"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
