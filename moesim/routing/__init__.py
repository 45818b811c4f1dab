"""Router traces: reading, checking, replaying, judging and synthesising them."""
