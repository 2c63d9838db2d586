"""The demonstration: three hospitals, their PACS and a coordinator on one machine."""
