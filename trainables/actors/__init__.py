"""Ray's actors: trials as Ray sees them, and the hosts that own a base. The only package that imports Ray."""
