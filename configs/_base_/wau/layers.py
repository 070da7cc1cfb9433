# WAU by whole layers: half of the convolutions move in each update.
wau = dict(type='WAUOptimWrapper', update_ratio=0.5, axis='layer', hold='state')
