"""What runs read and write: sources, mappings, sinks. Knows neither Redis nor producers."""
