"""Table I in small: candidates and seeds measured by one command, and a page of their clips."""
