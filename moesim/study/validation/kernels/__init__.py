"""Cost models of single kernels against measured tables: predictions, errors, fits into profiles."""
