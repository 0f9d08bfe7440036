"""Pictures of models, of what they look at, and of data; and the pages that hold them."""
