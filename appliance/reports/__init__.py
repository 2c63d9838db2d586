"""Reports that people read: one page per study, one per data set, drawn from arrays and figures.

Every page is one file without scripts and without any address outside itself. `page` builds HTML
in which all text is escaped, `planes` and `pictures` turn volumes into pictures, `charts` and
`figures` turn numbers into SVG, `study` and `group` put the pages together, `files` and `site`
bring the content from files and from a node.
"""
