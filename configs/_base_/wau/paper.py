# WAU in the paper's words: half of the filters move in each update.
wau = dict(type='WAUOptimWrapper', update_ratio=0.5)
