"""Scripts for users, and packages for developers that are not installed."""
