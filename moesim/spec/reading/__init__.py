"""How files are read: places of keys, complaints, quantities with units, options of kinds."""
