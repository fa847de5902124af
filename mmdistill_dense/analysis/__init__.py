"""What the tools print and draw."""
