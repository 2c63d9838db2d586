"""Array imaging of the node: grids, registration, brain masks, defacing, checks, preparation.

World coordinates are NIfTI's throughout: RAS (x right, y anterior, z superior), millimetres.
Every algorithm is a pure function on arrays; `appliance.imaging.files` wraps them for paths.
Nothing here imports torch, and thread counts are explicit arguments everywhere.
"""
