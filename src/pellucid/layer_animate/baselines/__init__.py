"""What Layer-Animate is measured against (Table I, Fig. 4), and what moves a picture without any network."""
