"""Student and teacher as networks: building, tapping, tracing and running parts of them."""
