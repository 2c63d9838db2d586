"""Labels: reading an expert's, importing a custodian's, agreeing where several raters drew."""
