"""The error of an image file that can't be read, in words meant for the user."""


class ImageError(ValueError):
    """One file can't be read as an image.

    Attributes:
        path: The file.
        reason: What is wrong with it, in words.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        # The default would call ImageError(faults) with one argument.
        return ImageError, (self.path, self.reason)
