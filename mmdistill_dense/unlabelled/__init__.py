"""Pictures without labels beside the labelled ones: their data set, stream and step."""
