"""The error of an image file that can't be read, in words meant for the user."""


class ImageError(ValueError):
    """The file `path` can't be read as an image, for a `reason` in words."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        # The default would call ImageError(message) with one argument.
        return type(self), (self.path, self.reason)


class NoImageFile(ImageError):
    """What stands at `path` can't be an image file, as a look at it tells without reading: it is empty or too
    large, a folder, a pipe, a device, or a link that leads back to itself.
    """
