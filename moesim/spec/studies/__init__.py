"""The files of studies: plans, sweeps, claims, baselines, weeks of failures."""
