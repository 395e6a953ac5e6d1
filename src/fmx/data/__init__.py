"""Where images come from: one source a module, each returning uint8 arrays or a map-style dataset."""
