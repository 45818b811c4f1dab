"""Collectives on the links of a cluster: when each rank's data has left and arrived."""
