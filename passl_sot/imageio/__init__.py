"""Image files to pixels and pixels to pixels, equal to Pillow to the bit. Needs NumPy and Pillow alone."""
