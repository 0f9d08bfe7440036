"""What a run means: each task says what a step computes, what is measured and how outputs are read."""
