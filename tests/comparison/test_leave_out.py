"""What RePr and DSD have in common: what is frozen is not left out, since it would stay so."""

import pytest
from small import SmallModel, small_runner

HOOKS = {
    'repr': dict(type='RePrHook', full_epochs=1, sub_epochs=1, cycles=1, drop_ratio=0.5),
    'dsd': dict(type='DSDHook', begin=1, end=2),
}


class FreezesLate(SmallModel):
    """Freezes stages when it is set to train, as many backbones of MMPreTrain do."""

    def __init__(self, *stages):
        super().__init__()
        self.stages = stages

    def train(self, mode=True):
        super().train(mode)
        for stage in getattr(self, 'stages', ()):
            self.get_submodule(stage).requires_grad_(False)
        return self


@pytest.mark.parametrize('hook', HOOKS)
@pytest.mark.parametrize('how', ['late', 'by its learning rate'])
def test_what_is_frozen_keeps_every_bit(tmp_path, hook, how):
    wrapper, model = dict(type='OptimWrapper'), SmallModel()
    if how == 'late':
        model = FreezesLate('backbone.1')
    else:
        wrapper['paramwise_cfg'] = dict(custom_keys={'backbone.1': dict(lr_mult=0)})
    hooks = [dict(HOOKS[hook], skip_first=False)]
    runner = small_runner(tmp_path, wrapper, hooks, max_epochs=3, model=model)
    before = model.backbone[1].weight.detach().clone()
    runner.train()
    assert model.backbone[1].weight.equal(before)


@pytest.mark.parametrize('hook', HOOKS)
def test_a_network_that_is_all_frozen_is_refused(tmp_path, hook):
    model = FreezesLate('backbone', 'neck')
    hooks = [dict(HOOKS[hook], targets=('backbone', 'neck'))]
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), hooks, max_epochs=3, model=model)
    with pytest.raises(ValueError, match=r'Hook: none of its layers trains: .*neck are frozen or'):
        runner.train()
