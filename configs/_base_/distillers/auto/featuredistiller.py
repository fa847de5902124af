"""A method that compares maps, also one of your own: docs/settings.md."""

_base_ = './distiller.py'
distillers = dict(method=dict(student_tap='auto'))
