"""The judgement: measures, floors and reports."""
