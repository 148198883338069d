"""What can be wrong with a data set, as pure functions on arrays: no files, no network. The stage `check` reads, these judge."""
