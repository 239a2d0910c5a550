"""The tables of the CRAN paper (Qi, Peng and Yuan, IJCAI 2018) as printed, with where each row came from."""
