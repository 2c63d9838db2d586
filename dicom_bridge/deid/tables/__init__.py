"""The standard's tables as data: origin and licences are in ``licences.json`` beside them."""
