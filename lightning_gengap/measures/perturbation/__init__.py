"""The accuracy on changed copies of the samples.

May import network, and no other room of measures.
"""
