"""Source formats. One module is one reader: `Config` and `build(config, source, spec=None)`; the protocol is in `_base`."""
