"""The one YAML file: `models.py` says what it may hold, `load.py` reads it and explains what is wrong with it."""
