"""The logger, a look for Paddle, and PASSL's spelling of the configuration: standard library only."""
