"""The commands that train, test, learn tokens and label pictures."""
