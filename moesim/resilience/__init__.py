"""Jobs and services among failures, over weeks; a step is a number of seconds here."""
