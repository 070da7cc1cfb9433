# WAU in the second way of its authors' code: whole layers, drawn with replacement.
wau = dict(
    type='WAUOptimWrapper',
    update_ratio=0.5,
    axis='layer',
    sampler='with_replacement',
    hold='state',
    min_active=0,
)
