"""Registry, configuration and small helpers: standard library and PyYAML only, no paddle, no numpy."""
