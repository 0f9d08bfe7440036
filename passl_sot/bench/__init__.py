"""Speed and memory, beside other programs in the same run."""
