"""What people look at: tables, pictures and pages of sweeps and data sets, made from files alone."""
