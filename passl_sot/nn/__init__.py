"""Blocks written once and shared by every family of models."""
