"""DePALM: a frozen image encoder, a small trained connector and a frozen language model.

The public names are those of :mod:`semi_nmf_concepts.lmm`; a model that has been saved is used by
its folder, as any other model is.
"""
