"""Finds and calls plugins; the only room that knows pluggy and stevedore."""
