"""Judging trained models: on the sets that others are judged on too."""
