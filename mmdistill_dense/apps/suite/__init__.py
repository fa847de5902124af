"""Train several methods over several seeds beside their control, and put the results into one table.

``mmdistill suite`` is the command; ``docs/suite.md`` says what a definition holds.
"""
