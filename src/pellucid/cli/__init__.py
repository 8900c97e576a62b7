"""The command line: one file per verb, torch imported only when a verb runs."""
