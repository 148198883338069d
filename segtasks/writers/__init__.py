"""Formats to give data back in. One module is one writer: `Config` and `build(config, target, spec)`; the protocol is in `_base`."""
