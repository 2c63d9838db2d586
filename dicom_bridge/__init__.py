"""All that speaks DICOM: query/retrieve, receiver, de-identification, conversion, SEG."""
