"""What the repository says of finished suites: docs/results.md, the table of the README, scores, pictures."""
