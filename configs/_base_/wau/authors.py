# WAU as in its authors' code: input channels, drawn with replacement.
wau = dict(
    type='WAUOptimWrapper', update_ratio=0.5, axis='in', sampler='with_replacement', min_active=0
)
