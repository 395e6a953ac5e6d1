"""Where images come from: one module per source, each returning uint8 arrays or a map-style dataset."""
