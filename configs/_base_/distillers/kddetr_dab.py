"""KD-DETR on all layers of a decoder with queries; temperature and random queries of the authors' code for DAB-DETR."""

# fits: pair dab|dino
distillers = dict(kddetr=dict(type='KDDETR', general=300, temperature=10.0))
