"""The logger, a look for Paddle, files, pictures, and PASSL's spelling of the configuration."""
